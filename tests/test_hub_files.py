import huggingface_hub
import pytest

from realgen.hub_files import check_file, local_file


@pytest.mark.parametrize("source", ["hf-hub:someone", "hf-hub:someone/something", "hf-hub:someone/something/", "no.pt"])
def test_what_is_no_address_and_no_file_is_refused(source):
    with pytest.raises(ValueError, match="head must be a file, or hf-hub:OWNER/REPOSITORY/FILE; got"):
        check_file(source, "head")


def test_a_file_on_disk_is_itself(tmp_path):
    (tmp_path / "weights.pt").touch()
    check_file(str(tmp_path / "weights.pt"), "head")
    assert local_file(str(tmp_path / "weights.pt")) == tmp_path / "weights.pt"


def test_the_hub_is_asked_for_repository_and_file(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *words: asked.append(words) or str(tmp_path))
    assert local_file("hf-hub:someone/something/folder/weights.pt") == tmp_path
    assert asked == [("someone/something", "folder/weights.pt")]


def test_a_hub_that_cannot_be_reached_is_named():
    with pytest.raises(
        ValueError,
        match=r"'hf-hub:someone/something/weights\.pt' cannot be fetched: .*hf download someone/something weights.pt",
    ):
        local_file("hf-hub:someone/something/weights.pt")
