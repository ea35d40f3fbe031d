#!/usr/bin/env python3
"""What PyPI's `webauthn` thinks of changed ceremonies, beside what this crate thinks.

    PUMASI_CEREMONIES=/tmp/ceremonies cargo test -p pumasi-signin ceremonies_for_others -- --ignored
    pip install webauthn && crates/signin/tests/differential.py /tmp/ceremonies

Exit 1: this crate accepted one that the other refuses. Those that only this one refuses are counted by its reason.
"""

import collections
import json
import sys

from webauthn import base64url_to_bytes, verify_authentication_response, verify_registration_response
from webauthn.helpers.cose import COSEAlgorithmIdentifier as A

# What an attestation claims is not asked for, and its form is not looked at here.
ATTESTATION = ("Unsupported attestation type", "None attestation had unexpected attestation statement")
both, stricter, milder = collections.Counter(), collections.Counter(), []
for line in open(sys.argv[1]):
    c = json.loads(line)
    response = {"clientDataJSON": c["client"]}
    credential = {"id": c["id"], "rawId": c["id"], "type": "public-key", "response": response}
    common = {
        "credential": credential, "expected_challenge": base64url_to_bytes(c["challenge"]), "expected_rp_id": "docs.example",
        "expected_origin": "https://docs.example", "require_user_verification": True,
    }
    try:
        if c["kind"] == "create":
            response["attestationObject"] = c["attestation"]
            algorithms = [A.ECDSA_SHA_256, A.EDDSA, A.RSASSA_PKCS1_v1_5_SHA_256]
            verify_registration_response(**common, supported_pub_key_algs=algorithms)
        else:
            response |= {"authenticatorData": c["data"], "signature": c["signature"]}
            verify_authentication_response(
                **common, credential_public_key=base64url_to_bytes(c["key"]), credential_current_sign_count=0
            )
        theirs = "accepted"
    except Exception as e:  # noqa: BLE001, whatever it says is a refusal
        theirs = f"{type(e).__name__}: {e}"
    if (c["ours"] == "accepted") == (theirs == "accepted"):
        both["accepted" if theirs == "accepted" else "refused"] += 1
    elif any(words in theirs for words in ATTESTATION):
        both["differ over the attestation only"] += 1
    elif theirs == "accepted":
        stricter[(c["kind"], c["ours"])] += 1
    else:
        milder.append((c["kind"], theirs, line))
print("both:", dict(both))
print("only this crate refuses:", {" / ".join(k): n for k, n in stricter.items()})
print("only the other refuses:", collections.Counter((k, t.split(":")[0]) for k, t, _ in milder))
for kind, theirs, line in milder[:20]:
    print(kind, theirs, line[:2000], file=sys.stderr)
sys.exit(bool(milder))
