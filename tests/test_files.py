"""Test folders that are written as a whole."""

from sclip.files import atomic_folder


def test_a_link_in_place_of_a_folder_stays_and_its_target_is_replaced(tmp_path):
    """A user moves a model to a larger disk, and trains it again, twice."""
    link, target = tmp_path / "seed-0", tmp_path / "disk/seed-0"
    target.mkdir(parents=True)
    link.symlink_to(target)
    for text in ("first", "second"):
        with atomic_folder(link) as unfinished:
            (unfinished / "model").write_text(text)
        assert (target / "model").read_text() == (link / "model").read_text() == text
    assert link.is_symlink()
    assert {*tmp_path.iterdir(), *target.parent.iterdir()} == {link, target, target.parent}  # and nothing temporary
