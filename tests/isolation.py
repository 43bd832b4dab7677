"""Keep what the shell says of git repositories, hubs, proxies and launchers out of the tests."""

import os

from shipped import SCRATCH

PREFIXES = ("GIT_", "HF_", "HUGGINGFACE_", "TORCHELASTIC_")
for variable in [name for name in os.environ if name.startswith(PREFIXES)]:
    del os.environ[variable]
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{SCRATCH.name}/hub"}
os.environ |= {"NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}
os.environ["DVC_NO_ANALYTICS"] = "1"  # `dvc init` would send a report
