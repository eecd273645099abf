"""Keys and certificates of 127.0.0.1."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def self_signed(folder: Path) -> Path:
    """Write a key and a certificate that it signed itself, as its own authority, to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "self-signed.pem"
    path.write_bytes(_pem(key, _certificate("test", key, "test", key, authority=True)))
    return path


def signed(folder: Path) -> tuple[Path, Path]:
    """Write an authority's certificate to one file, and a key with its certificate to another."""
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority, path = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(
        _certificate("root", root, "root", root, authority=True).public_bytes(
            serialization.Encoding.PEM
        )
    )
    path.write_bytes(_pem(key, _certificate("test", key, "root", root, authority=False)))
    return authority, path


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuers_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(
            _name(issuer), _name(name), key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(issuers_key, hashes.SHA256())
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
