"""Files of the Hugging Face hub, through its own client: downloaded once, read from its cache afterwards."""

import json
import os
import pathlib
import re
from typing import Any

import resjax
from resjax.errors import InputError, printable

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", re.ASCII)


def repository(name: str) -> tuple[str, str | None] | None:
    """(USER/REPO, revision or None) of "USER/REPO" or "USER/REPO@REVISION"; None for what is no such name."""
    match = _REPOSITORY.fullmatch(name)
    return (match[1], match[2]) if match else None


def fetch(repo: str, revision: str | None, file: str) -> pathlib.Path:
    """A file of a repository in the client's cache, downloaded where it is not there or has changed.

    Its folder's name is the commit that it is of.

    Args:
      repo: USER/REPO.
      revision: a branch, tag or commit; None is "main".
      file: its name.

    Raises:
      InputError: without the client, and where there is no such repository, revision or file, or no way to it.
    """
    hub = _client(f"{repo}: no such folder here; a repository of the Hugging Face hub")
    errors, at = hub.errors, f" at {revision}" if revision else ""
    try:
        versions = {"library_name": "resjax", "library_version": resjax.__version__}
        return pathlib.Path(hub.hf_hub_download(repo, file, revision=revision, **versions))
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise InputError(
            f"{repo}{at}: no such folder here; {file} is not in the cache of huggingface_hub, and the hub cannot be"
            f" reached{' (HF_HUB_OFFLINE is set)' if hub.constants.HF_HUB_OFFLINE else ''}: load it once with a"
            " network, or copy the cache (HF_HOME) from a machine that has it"
        ) from None
    except errors.GatedRepoError:
        raise InputError(f"{repo}: needs its owner's leave: ask for it on its page, then run `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{repo}: no such folder here, and no such repository on the hub, or a private one: check the name, or run"
            " `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repo}: has no revision {revision!r}; give a branch, tag or commit of it") from None
    except errors.EntryNotFoundError:
        kind = " (weights in other formats, such as pytorch_model.bin, are not read)" if file == WEIGHTS_FILE else ""
        raise InputError(f"{repo}{at}: has no {file}{kind}; give a repository of resjax's, or of timm's") from None
    except Exception as error:  # the client's, its HTTP library's and the disk's, of many types
        raise InputError(f"{repo}{at}: {file} cannot be loaded ({_first_line(error)})") from None


def push_to_hub(
    folder: str | os.PathLike[str],
    repo: str,
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Uploads what `save_pretrained` wrote, with a card, in one commit; returns the commit's address.

    `resjax.from_pretrained(repo)` then reads it. The card is the folder's README.md, or a short one; it gets the
    licence and the tags by which the hub finds it.

    Args:
      folder: of `save_pretrained`, with a README.md or without.
      repo: "USER/REPO"; made where it does not exist.
      license: identifier of the licence as the hub writes it, e.g. "apache-2.0"; None takes `about["license"]`.
      private: whether a new repository is private.
      token: of the hub; None is that of `hf auth login` or HF_TOKEN.

    Raises:
      InputError: for a folder that does not load, a name that is none, no licence, and where the hub refuses.
    """
    from resjax.interop.pretrained import from_pretrained, pretrained_info

    folder = pathlib.Path(folder)
    found = repository(repo)
    if found is None or found[1]:
        raise InputError(f"push_to_hub: expected a repository as USER/REPO, got {printable(repo)!r}")
    if not folder.is_dir():
        raise InputError(f"push_to_hub: {folder}: no such folder; give one that resjax.save_pretrained wrote")
    from_pretrained(folder)  # nobody else should find out that it does not load
    about = pretrained_info(folder)
    license = license or about.get("license")
    if not license:
        raise InputError(
            'push_to_hub: say under which licence others may use these weights, e.g. license="apache-2.0"; what they'
            " were trained on may restrict it"
        )
    hub = _client("push_to_hub")
    own = folder / CARD_FILE
    text = own.read_text(encoding="utf-8") if own.exists() else _card(about)
    text = re.sub(r'(from_pretrained|pretrained_info|preprocessing)\("[^"]*"\)', rf'\1("{repo}")', text)
    card = _front_matter(about, license) + re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE)
    content: dict[str, Any] = {name: folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)}
    content[CARD_FILE] = card.encode()
    try:
        api = hub.HfApi(token=token, library_name="resjax", library_version=resjax.__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(name, data) for name, data in content.items()]
        return str(api.create_commit(repo, operations, commit_message="Weights of resjax").commit_url)
    except Exception as error:  # the client's, its HTTP library's and the disk's, of many types
        way_out = "" if token else "; run `hf auth login` with a token that may write"
        raise InputError(f"push_to_hub: {repo}: the upload failed ({_first_line(error)}){way_out}") from None


def _card(about: dict[str, Any]) -> str:
    error = f"\nTest error: {about['test_error']:.2f} %.\n" if isinstance(about.get("test_error"), float) else ""
    return f"""# {about.get("model", "A network of resjax")}
{error}
```python
import resjax

model, variables = resjax.from_pretrained("")
preprocess = resjax.preprocessing("")  # of uint8 images of any size, or files
logits = model.apply(variables, preprocess(images))
```
"""


def _front_matter(about: dict[str, Any], license: str) -> str:
    fields: dict[str, Any] = {"license": license, "library_name": "resjax", "pipeline_tag": "image-classification"}
    fields["tags"] = ["jax", "flax", "image-classification"]
    if isinstance(about.get("dataset"), str) and about["dataset"] != "arrays":
        fields["datasets"] = [about["dataset"]]
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()) + "---\n"


def _client(what: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise InputError(f"{what} needs the client of the Hugging Face hub: pip install 'resjax[hub]'") from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0], 200)
