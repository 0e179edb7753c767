"""A real SMTP server (aiosmtpd) for the tests: says its port, writes each mail it takes as one JSON line.

smtp_server.py MODE [CERTIFICATE KEY [USER PASSWORD]]
MODE: take | grey (451 at the first two attempts) | reject (550) | hang (never greets) | wrapped (TLS from the first byte)
With a certificate STARTTLS is required; with user and password, AUTH is.
"""
import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Handler:
    def __init__(self, mode):
        self.mode, self.attempts = mode, 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.attempts += 1
        if self.mode == "grey" and self.attempts <= 2:
            return "451 4.7.1 Greylisted, please try again later"
        if self.mode == "reject":
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": server.transport.get_extra_info("sslcontext") is not None,
            "user": session.auth_data.login.decode() if session.auth_data else None,
            "text": envelope.content.decode(),
        }
        print(json.dumps(mail), flush=True)
        return "250 Taken"


async def main():
    mode, more = sys.argv[1], sys.argv[2:]
    context = None
    if len(more) >= 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(more[0], more[1])
    options = {"hostname": "mail.test", "enable_SMTPUTF8": True}
    if context and mode != "wrapped":
        options |= {"tls_context": context, "require_starttls": True}
    if len(more) >= 4:
        user, password = more[2].encode(), more[3].encode()

        def authenticate(server, session, envelope, mechanism, data):
            good = data.login == user and data.password == password
            return AuthResult(success=good, handled=False, auth_data=data)

        options |= {"authenticator": authenticate, "auth_required": True}
    handler = Handler(mode)

    async def silent(reader, writer):
        await asyncio.sleep(3600)

    if mode == "hang":
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
    else:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(handler, **options), "127.0.0.1", 0, ssl=context if mode == "wrapped" else None
        )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
