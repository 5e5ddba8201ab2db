"""The vendored NiiVue: its version, its bytes, and the private fields that the canvas uses."""

import hashlib
import re
from pathlib import Path

import pytest

FRONTEND = Path(__file__).parents[2] / "app" / "canvas" / "frontend"
ADAPTER = (FRONTEND / "niivue_private.js").read_text()
BUNDLE = (FRONTEND / "niivue" / "niivue.umd.js").read_bytes()

PUBLIC = {"opts", "volumes", "refreshLayers", "drawScene", "dimsRAS"}
"""Documented fields of NiiVue that the adapter uses too."""


def private_fields():
    """Names of the fields of NiiVue (`nv.…`) and of its images (`… } = volume`) in the adapter."""
    fields = set(re.findall(r"\bnv\.(\w+)", ADAPTER))
    [unpacked] = re.findall(r"\{([^{}]*)\} = volume", ADAPTER)
    fields |= {entry.split(":")[0].strip() for entry in unpacked.split(",")}
    return fields - PUBLIC


def test_private_fields_were_checked_with_the_vendored_version():
    [vendored] = re.findall(rb'\{version:"([\d.]+)"\}', BUNDLE)
    [checked] = re.findall(r'CHECKED_VERSION = "([\d.]+)"', ADAPTER)
    assert checked == vendored.decode(), (
        f"NiiVue is {vendored.decode()}, but niivue_private.js was checked with {checked}; check "
        f"that these fields still work as its comments say: {', '.join(sorted(private_fields()))}"
    )


@pytest.mark.parametrize("field", sorted(private_fields()))
def test_private_field_exists_in_the_bundle(field):
    assert re.search(rf"\b{field}\b".encode(), BUNDLE)


def test_only_the_adapter_uses_private_fields():
    for path in FRONTEND.glob("*.js"):
        if path.name != "niivue_private.js":
            used = (
                set(re.findall(r"\b(?:nv|volume|image)\.(\w+)", path.read_text()))
                & private_fields()
            )
            assert not used, f"{path.name} uses {used}"


def test_readme_has_version_and_hash_of_the_bundle():
    readme = (FRONTEND / "niivue" / "README.md").read_text()
    [checked] = re.findall(r'CHECKED_VERSION = "([\d.]+)"', ADAPTER)
    assert f"`@niivue/niivue` {checked}," in readme
    assert hashlib.sha256(BUNDLE).hexdigest() in readme and f"{len(BUNDLE):,} bytes" in readme
