import re

from tiny_lm.training import callbacks


def test_progress_in_a_file_is_lines_in_optimizer_steps(train, capfd, monkeypatch):
    monkeypatch.setattr(callbacks.OptimizerStepProgressBar.__init__, "__defaults__", (0.0,))
    train("a", runtime={"progress": True}, batch_size=4, micro_batch_size=1)
    shown = capfd.readouterr().err
    lines = re.findall(r"^step (\d+)/12 · loss \d\.\d{3}.* · [\d,]+ tokens/s · \d+:\d\d left$", shown, re.M)
    assert lines == [str(step) for step in range(1, 13)]
    assert "\r" not in shown.partition("step 1/12")[2].partition("step 12/12")[0]


def test_without_progress_nothing_is_shown(train, capfd):
    train("a")
    assert capfd.readouterr().err == ""


def test_utilization_is_known_for_the_cards_of_the_list(monkeypatch):
    import torch

    for name, peak in {"NVIDIA H200": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA GeForce RTX 5090": 209.5e12}.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert callbacks._peak_flops(torch.device("cuda")) == peak
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Unheard of")
    assert callbacks._peak_flops(torch.device("cuda")) is None
    assert callbacks._peak_flops(torch.device("cpu")) is None
