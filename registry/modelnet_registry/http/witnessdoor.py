"""The door of a witness, as C2SP tlog-witness has it; open only where the operator asked for it.

POST /add-checkpoint              200 the cosignature · 400 · 403 not signed by its log · 404 unknown log
                                  409 with the size that was cosigned last (text/x.tlog.size), also when another head
                                  of that size was · 422 does not continue it
GET /witness                      the witness's verifier key, one line
GET /{origin hash}/checkpoint     the newest head that was cosigned
"""

from __future__ import annotations

from http import HTTPStatus

from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError
from modelnet_registry.http.message import Refusal, Request, Response, text
from modelnet_registry.witness import Submission, Witness

__all__ = ["MAX_BODY", "WitnessDoor"]

MAX_BODY = 64 * 1024  # of a submission: a head and 63 hashes are below 4 KiB unless many have signed
SIZE = "text/x.tlog.size"


class WitnessDoor:
    """Speaks HTTP for a witness."""

    def __init__(self, witness: Witness) -> None:
        """Answer with what `witness` says."""
        self._witness = witness

    def respond(self, request: Request) -> Response | None:
        """Answer what is for a witness; None for what is not."""
        match request.segments():
            case ("add-checkpoint",):
                return self._add_checkpoint(request)
            case ("witness",) if request.method in ("GET", "HEAD"):
                return text(HTTPStatus.OK, f"{self._witness.key.note_key.vkey}\n")
            case (origin, "checkpoint") if request.method in ("GET", "HEAD"):
                return self._checkpoint(origin)
        return None

    def _add_checkpoint(self, request: Request) -> Response:
        """Answer a submission."""
        if request.method != "POST":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "a checkpoint is submitted by POST", ("Allow", "POST"))
        body = request.receive(MAX_BODY)
        try:
            line = self._witness.add_checkpoint(Submission.parse(body))
        except ModelnetError as error:
            return _refused(error)
        except OSError as error:
            raise _unable() from error
        return text(HTTPStatus.OK, line.decode())

    def _checkpoint(self, origin_hash: str) -> Response:
        """Answer with the newest cosigned head of a log."""
        note = self._witness.checkpoint(origin_hash)
        if note is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "no head of such a log was cosigned here")
        return text(HTTPStatus.OK, note.decode())


def _refused(error: ModelnetError) -> Response:
    match error:
        case UnavailableError(rule="size", got=int(size)):
            return text(HTTPStatus.CONFLICT, f"{size}\n", kind=SIZE)
        case TrustError(rule="origin"):
            status = HTTPStatus.NOT_FOUND
        case TrustError():
            status = HTTPStatus.FORBIDDEN
        case MalformedError():
            status = HTTPStatus.BAD_REQUEST
        case IntegrityError():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
        case _:
            raise _unable() from error
    raise Refusal(status, error.message)


def _unable() -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the witness cannot store heads now", ("Retry-After", "10"))
