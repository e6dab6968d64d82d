"""The validation studies run, write their results, and notice a wrong law."""

import pytest

from validation import __main__ as validation
from validation import signature_laws


def test_signature_laws_pass_and_write_their_results(tmp_path, monkeypatch):
    monkeypatch.setattr(signature_laws, "rows", lambda samples, rows=signature_laws.rows: rows(samples // 4))
    assert validation.main(["signature_laws", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"signature_laws.{end}" for end in ("csv", "md", "png")]


def test_a_wrong_law_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(signature_laws, "gaussian_word_covariance", lambda words, h: 1.1 * COVARIANCE(words, h))
    monkeypatch.setattr(signature_laws, "rows", lambda samples, rows=signature_laws.rows: [next(rows(10_000))])
    assert validation.main(["--out", str(tmp_path)]) == 1
    assert "NO" in (tmp_path / "signature_laws.md").read_text()


def test_unknown_study(capsys):
    with pytest.raises(SystemExit):
        validation.main(["nothing"])
    assert "unknown study 'nothing'; there are signature_laws" in capsys.readouterr().err


COVARIANCE = signature_laws.gaussian_word_covariance
