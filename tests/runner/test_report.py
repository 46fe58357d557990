"""The report: mean and spread from the files alone, also of what went wrong."""

import json

import pytest

from runner.report import find_runs, main, table


def write_run(folder, variant, seed, accuracy=None, status="done", inactive=()):
    place = folder / variant / f"seed={seed}"
    place.mkdir(parents=True)
    (place / "status.json").write_text(json.dumps({"status": status, "seconds": 2.0 + seed}))
    lines = [
        {"epoch": e, "update": e * 5, "train/loss": 1 / e, "validation/accuracy": 0.5}
        for e in (1, 2)
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if accuracy is not None:
        result = {"test/accuracy": accuracy, "test/loss": 0.5, "test/shift_consistency": 0.75}
        (place / "result.json").write_text(json.dumps({**result, "inactive": [*inactive]}))


def test_the_table_tells_mean_and_sample_deviation_the_baseline_first(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        write_run(tmp_path, "baseline", seed, accuracy)
        write_run(
            tmp_path, "clipping", seed, accuracy + 0.01, inactive=["clipping"] if seed else ()
        )
    write_run(tmp_path, "flooding", 0, 0.99)
    write_run(tmp_path, "flooding", 1, status="diverged")
    heads, _, *rows = table(find_runs(tmp_path))
    assert heads.split()[:2] == ["variant", "runs"]
    assert [row.split()[0] for row in rows] == ["baseline", "flooding", "clipping"]
    assert "92.00 ± 2.00" in rows[0]  # the sample's: n - 1
    assert "3.0 ± 1.0" in rows[0]
    assert "93.00 ± 2.00" in rows[2]
    assert "clipping inactive in 2" in rows[2]
    assert "99.00" in rows[1]
    assert "±" not in rows[1]  # one value has no spread
    assert "1 diverged" in rows[1]


def test_the_command_prints_the_table_and_draws_the_curves(tmp_path, capsys):
    write_run(tmp_path, "clipping", 0, 0.9)
    write_run(tmp_path, "flooding", 0, status="running")
    main([str(tmp_path)])
    assert "1 running" in capsys.readouterr().out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_runs_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="must hold runs, got none"):
        main([str(tmp_path)])
