"""A release as a CycloneDX 1.6 ML-BOM: for tools that ask what is in a product and where it came from.

Source: CycloneDX 1.6 JSON schema, `machine-learning-model` components, `pedigree.ancestors`. The document says nothing
that the signed manifest and the logs do not; it carries no time, so the same release gives the same bytes.
"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import quote

from modelnet.core.manifest import Manifest
from modelnet.core.release import Release
from modelnet.lineage import Lineage

__all__ = ["cyclonedx"]

SPEC = "1.6"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def cyclonedx(release: Release, manifest: Manifest, lineage: Lineage) -> dict[str, Any]:
    """Return the BOM of a release, ready for `json.dumps`."""
    reference = f"ipfs://{release.manifest}"
    metadata = manifest.extra.get("metadata", {})
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "publisher": release.pid,
        "name": manifest.name,
        "version": manifest.version,
        "purl": f"pkg:generic/{quote(manifest.name)}@{quote(manifest.version)}",
        "hashes": _hashes(manifest.sha256, release.manifest.digest.hex()),
        "externalReferences": [
            {"type": "distribution", "url": f"ipfs://{manifest.tree}", "comment": "the files, as a UnixFS folder"},
            {"type": "attestation", "url": reference, "comment": "the manifest that the publisher signed"},
        ],
    }
    if text := metadata.get("description"):
        component["description"] = text
    if licence := metadata.get("license"):
        # Free text: whether it is an SPDX identifier is for the reader to check.
        component["licenses"] = [{"license": {"name": licence}}]
    if lineage.parents:
        component["pedigree"] = {"ancestors": [_ancestor(parent) for parent in lineage.parents]}
    files = [
        {
            "type": "file",
            "bom-ref": f"{reference}#{quote(entry.path)}",
            "name": entry.path,
            "hashes": _hashes(entry.sha256.hex(), entry.blake3.hex()),
            "externalReferences": [{"type": "distribution", "url": f"ipfs://{entry.cid}"}],
        }
        for entry in manifest.files
    ]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, reference)}",
        "version": 1,
        "metadata": {"component": component},
        "components": files,
        "dependencies": [{"ref": reference, "dependsOn": [file["bom-ref"] for file in files]}],
    }


def _hashes(sha256: str, blake3: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}, {"alg": "BLAKE3", "content": blake3}]


def _ancestor(parent: Lineage) -> dict[str, Any]:
    digests = (("SHA-256", parent.digests.sha256), ("BLAKE3", parent.digests.blake3))
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "publisher": parent.pid,
        "name": parent.name or parent.title,
        "hashes": [{"alg": alg, "content": value} for alg, value in digests if value],
        "properties": [
            {"name": "modelnet:relation", "value": parent.relation or ""},
            {"name": "modelnet:state", "value": parent.state},
        ],
    }
    if parent.version:
        component["version"] = parent.version
    if parent.reason:
        component["properties"].append({"name": "modelnet:reason", "value": parent.reason})
    if parent.parents:
        component["pedigree"] = {"ancestors": [_ancestor(one) for one in parent.parents]}
    return component
