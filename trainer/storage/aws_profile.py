"""What a profile of AWS's shared files says: ``~/.aws/config`` and ``~/.aws/credentials``.

``obstore`` knows the environment and the machine's own credentials, and not these files. Settings:
https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

import configparser
import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.common.text import nearest
from trainer.errors import ConfigError, CredentialsError, UnavailableError

if TYPE_CHECKING:
    from obstore.store import S3Credential

_PROCESS_SECONDS = 60.0  # as long as a person takes to confirm a login
_ELSEWHERE = (
    "sso_session",
    "sso_start_url",
    "source_profile",
    "credential_source",
    "login_session",
)


def read(env: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the profile that AWS_PROFILE names, or of ``default``.

    Those of a service (``s3 =`` and lines below it) are under names such as ``s3.endpoint_url``.

    Raises:
        ConfigError: AWS_PROFILE names none that is there, or a file cannot be read.
    """
    wanted = env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE") or ""
    config = _sections(env.get("AWS_CONFIG_FILE") or "~/.aws/config")
    # In this file alone every profile but the default one has a word before its name.
    profiles = {"default": config.get("default", {})} | {
        words[1]: values
        for name, values in config.items()
        if len(words := _words(name)) == 2 and words[0] == "profile"
    }
    for name, values in _sections(
        env.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    ).items():
        profiles[name] = {**profiles.get(name, {}), **values}
    if wanted and wanted not in profiles:
        raise ConfigError(
            f"AWS_PROFILE={wanted!r}: no such profile in ~/.aws/config or ~/.aws/credentials"
            f"{nearest(wanted, profiles) or '; add it, or unset AWS_PROFILE'}"
        )
    settings = profiles[wanted or "default"]
    services = config.get(f"services {settings.get('services', '')}", {})
    return {**services, **settings, "name": wanted or "default"}


def _words(text: str) -> list[str]:
    """Return the words of a text, some perhaps in quotes; none where those do not match."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _sections(path: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; let this user read it") from None
    except (configparser.Error, UnicodeDecodeError):  # whose words may quote a secret
        raise ConfigError(f"{path}: not a file of [profile] and NAME = VALUE; fix it") from None
    return {name: _flat(dict(parser[name])) for name in parser.sections()}


def _flat(values: Mapping[str, str]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        inner = [line.partition("=") for line in value.splitlines()[1:] if "=" in line]
        flat |= {f"{name}.{key.strip()}": each.strip() for key, _, each in inner}
        if not inner:
            flat[name] = value
    return flat


class Process:
    """Asks a program for credentials, as ``credential_process`` of a profile says.

    Args:
        command: the program and its arguments.
        profile: the name of the profile.
    """

    def __init__(self, command: Sequence[str], profile: str) -> None:
        self._command = command
        self._where = f"profile {profile!r}: {command[0]}"
        self._profile = profile
        self._known: S3Credential | None = None

    def __call__(self) -> "S3Credential":
        """Return credentials: new ones, or the last while they are good for some minutes.

        Raises:
            UnavailableError: the program has none. What it wrote may be a secret, and is not shown.
        """
        if not self._known or _ends_soon(self._known["expires_at"]):
            self._known = self._ask()
        return self._known

    def _ask(self) -> "S3Credential":
        try:
            done = subprocess.run(
                self._command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROCESS_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(
                f"{self._where}: {type(error).__name__}; try it by hand"
            ) from None
        if done.returncode:
            raise CredentialsError(
                f"{self._where}: gives no credentials (exit code {done.returncode}); log in again "
                f"(aws sso login --profile {self._profile}), or try it by hand"
            )
        try:
            said = json.loads(done.stdout)
            end = said.get("Expiration")
            return {
                "access_key_id": said["AccessKeyId"],
                "secret_access_key": said["SecretAccessKey"],
                "token": said.get("SessionToken"),
                "expires_at": datetime.fromisoformat(end) if end else None,
            }
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UnavailableError(
                f"{self._where}: wrote something else than credentials; try it by hand"
            ) from None


def _ends_soon(end: datetime | None) -> bool:
    return end is not None and end - datetime.now(UTC) < timedelta(minutes=5)


def process(settings: Mapping[str, str]) -> Process | None:
    """Return what to ask for a profile's credentials, None where they are in the files.

    Logins and roles of other profiles are left to AWS's own command line.

    Raises:
        ConfigError: that is needed and not installed.
    """
    name = settings["name"]
    if "credential_process" in settings:
        command = _words(settings["credential_process"])
        if not command:
            raise ConfigError(f"profile {name!r}: credential_process is no command; fix its quotes")
        return Process(command, name)
    used = [each for each in _ELSEWHERE if each in settings]
    if not used:
        return None
    if not shutil.which("aws"):
        raise ConfigError(
            f"profile {name!r}: {used[0]} needs the AWS CLI, which is not installed; where it is, "
            f'run eval "$(aws configure export-credentials --profile {name} --format env)"'
        )
    return Process(
        ("aws", "configure", "export-credentials", "--profile", name, "--format", "process"), name
    )
