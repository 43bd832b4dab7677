"""File arguments: folders, patterns and lists, each file once, of one kind."""

import os

import pytest
from file_examples import write_files

from sclip.apps.inputs import list_files, sentence_items
from sclip.errors import UserError


def names(listing) -> list[str]:
    return [os.path.relpath(path) for path in listing.files]


def test_folders_are_read_with_all_folders_below_and_without_hidden_files(folder):
    write_files("a/2.png", "a/b/c/1.JPG", "a/.hidden.png", "a/.git/3.png", "a/notes.txt", "a/1.webp")
    assert names(list_files("a")) == ["a/1.webp", "a/2.png", "a/b/c/1.JPG"]


def test_patterns_and_files_are_taken_as_they_are(folder):
    write_files("a/1.png", "a/b/2.png", "a/x", "[odd].png")
    assert names(list_files(["a/**/*.png"])) == ["a/1.png", "a/b/2.png"]
    assert names(list_files(["a/x", "[odd].png"])) == ["a/x", "[odd].png"]  # a name before it is a pattern
    assert names(list_files(["*"])) == ["[odd].png", "a/1.png", "a/b/2.png"]


def test_a_list_names_files_relative_to_itself_and_may_name_missing_ones(folder):
    write_files("lists/1.png", "2.png", "lists/below/3.png")
    (folder / "lists/list.txt").write_text("\ufeff1.png\r\n\n../2.png\nmissing.png\nbelow\n", "utf-8")
    expected = ["lists/1.png", "2.png", "lists/missing.png", "lists/below/3.png"]
    assert names(list_files(["@lists/list.txt"])) == expected


def test_each_file_is_listed_once_through_whatever_names_and_links(folder):
    write_files("a/1.png", "a/2.png")
    (folder / "link").symlink_to("a")
    (folder / "a/loop").symlink_to("..")
    (folder / "3.png").symlink_to("a/1.png")
    found = names(list_files(["a/2.png", "a", "a/../a/*.png", "link", "3.png"]))
    assert found == ["a/2.png", "a/1.png"]


def test_the_kind_follows_from_the_suffixes(folder):
    write_files("a/1.png", "b/1.wav", "b/2.FLAC")
    assert list_files("a").kind == "image"
    assert list_files("b").kind == "audio"
    with pytest.raises(UserError, match="found 1 picture and 2 recordings; give --kind image or --kind audio"):
        list_files(["a", "b"])
    assert names(list_files(["a", "b"], "audio")) == ["b/1.wav", "b/2.FLAC"]
    (folder / "x").touch()
    with pytest.raises(UserError, match="x: its name does not say whether it is a picture or a recording; give --kind"):
        list_files(["x"])
    assert names(list_files(["x"], "audio")) == ["x"]


def test_mistakes_are_named(folder):
    (folder / "empty").mkdir()
    write_files("text/notes.txt", "notes")
    (folder / "binary").write_bytes(b"\0\1")
    for arguments, message in {
        ("empty",): "^empty: no pictures or recordings there; expected one of .bmp",
        ("text",): "^text: no pictures or recordings there",
        (): "no files were given",
        ("missing.png",): "^missing.png: no such file or folder",
        ("missing/*.png",): r"^missing/\*.png: no file matches this pattern",
        ("@missing.txt",): "^@missing.txt: the list cannot be read: No such file",
        ("@binary",): "^@binary: not a list of files",
    }.items():
        with pytest.raises(UserError, match=message):
            list_files(arguments)
    with pytest.raises(UserError, match="kind: expected one of image, audio, found 'video'"):
        list_files(["text"], "video")


def test_a_folder_that_cannot_be_read_is_an_error_and_not_a_folder_without_files(folder, monkeypatch):
    write_files("a/1.png", "a/locked/2.png")
    scandir = os.scandir

    def refuse(place):  # the tests may run as root, who may read everything
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"^a/locked: the folder cannot be read: Permission denied"):
        list_files("a")


def test_sentences_are_named_by_file_and_line(folder):
    (folder / "a.txt").write_text("\ufeffa dog\r\n\n  two cats \n", "utf-8")
    items = sentence_items(["a.txt"])
    assert [(os.path.relpath(item.name), item.text) for item in items] == [
        ("a.txt:1", "a dog"),
        ("a.txt:3", "two cats"),
    ]
    (folder / "a.txt").write_text("a dog\n\ntwo dogs\n")
    assert [a == b for a, b in zip(items, sentence_items("a.txt"), strict=True)] == [True, False]
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty.txt: no sentences there"):
        sentence_items("empty.txt")
