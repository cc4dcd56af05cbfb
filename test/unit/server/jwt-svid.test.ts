import assert from 'node:assert/strict';
import { createHmac, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { SignJWT } from 'jose';
import type { HpcsError } from '../../../src/errors.ts';
import { JwtSvidVerifier, lifetimeUntil } from '../../../src/server/jwt-svid.ts';

const trusted = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const other = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const publicKey = trusted.publicKey.export({ format: 'der', type: 'spki' });
const subject = 'spiffe://example.org/c/0123456af/workload';

interface Claims {
  sub?: string;
  aud?: string | string[];
  exp?: number | string | null;
  kid?: string | null;
  key?: KeyObject;
}

async function token({
  sub = subject,
  aud = 'hpcs-server',
  exp = '5m',
  kid = 'k1',
  key = trusted.privateKey,
}: Claims): Promise<string> {
  const jwt = new SignJWT({}).setProtectedHeader({ alg: 'ES256', typ: 'JWT', ...(kid === null ? {} : { kid }) });
  jwt.setSubject(sub).setAudience(aud).setIssuedAt();
  if (exp !== null) jwt.setExpirationTime(exp);
  return jwt.sign(key);
}

function verifier(audience = ['hpcs-server']): JwtSvidVerifier {
  return new JwtSvidVerifier({
    trustDomain: 'example.org',
    audience,
    authorities: async () => [{ keyId: 'k1', publicKey }],
  });
}

const unsigned = (header: object, payload: object): string =>
  [header, payload].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');

const refusedAs = (code: string, message: RegExp) => (error: HpcsError) => error.code === code && message.test(error.message);

describe('JwtSvidVerifier', () => {
  it('names the client of a valid token', async () => {
    assert.equal(await verifier().client(await token({})), '0123456af');
  });

  it('accepts any of its audiences', async () => {
    const both = verifier(['hpcs-server', 'TESTING']);
    assert.equal(await both.client(await token({ aud: 'TESTING' })), '0123456af');
    assert.equal(await both.client(await token({ aud: ['x', 'hpcs-server'] })), '0123456af');
  });

  const cases: [what: string, claims: Claims, code: string, message: RegExp][] = [
    ['forged', { key: other.privateKey }, 'unauthenticated', /signature is wrong/],
    ['signed by an unknown key', { key: other.privateKey, kid: 'k2' }, 'unauthenticated', /not signed by this trust domain/],
    ['without a key id', { kid: null }, 'unauthenticated', /not signed by this trust domain/],
    ['expired', { exp: Math.floor(Date.now() / 1000) - 60 }, 'unauthenticated', /has expired/],
    ['without an end', { exp: null }, 'unauthenticated', /exp/],
    ['for the vault', { aud: 'vault' }, 'unauthenticated', /another audience/],
    ['of a node', { sub: 'spiffe://example.org/h/cn01' }, 'forbidden', /no client's workload/],
    ['of a reader', { sub: 'spiffe://example.org/c/0123456af/s/x' }, 'forbidden', /no client's workload/],
    ['of another trust domain', { sub: 'spiffe://evil.org/c/0123456af/workload' }, 'forbidden', /no client's workload/],
    ['with more below', { sub: `${subject}/workload` }, 'forbidden', /no client's workload/],
    ['with an id of other form', { sub: 'spiffe://example.org/c/../workload' }, 'spiffe-id-invalid', /not a SPIFFE ID/],
  ];
  for (const [what, claims, code, message] of cases) {
    it(`refuses one ${what}`, async () => {
      await assert.rejects(verifier().client(await token(claims)), refusedAs(code, message));
    });
  }

  const payload = { sub: subject, aud: 'hpcs-server', exp: Math.floor(Date.now() / 1000) + 300 };

  it('refuses one without a signature', async () => {
    for (const alg of ['none', 'None', 'NONE'])
      await assert.rejects(
        verifier().client(`${unsigned({ alg, kid: 'k1' }, payload)}.`),
        refusedAs('unauthenticated', /algorithm|malformed/),
      );
  });

  it('refuses the public key as the key of a hash', async () => {
    const input = unsigned({ alg: 'HS256', kid: 'k1' }, payload);
    for (const key of [publicKey, trusted.publicKey.export({ format: 'pem', type: 'spki' })])
      await assert.rejects(
        verifier().client(`${input}.${createHmac('sha256', key).update(input).digest('base64url')}`),
        refusedAs('unauthenticated', /algorithm is not allowed/),
      );
  });

  for (const text of ['', 'x', 'a.b.c', '..', `${'a'.repeat(1000)}.b.c`])
    it(`refuses ${JSON.stringify(text.slice(0, 12))}`, async () => {
      await assert.rejects(verifier().client(text), refusedAs('unauthenticated', /./));
    });

  it('does not show the token in its error', async () => {
    const forged = await token({ key: other.privateKey });
    await assert.rejects(
      verifier().client(forged),
      (error: HpcsError) => !JSON.stringify([error, error.message, error.cause]).includes(forged),
    );
  });

  it('learns of a new key, but does not ask for one at every unknown token', async () => {
    let asked = 0;
    const keys = [{ keyId: 'old', publicKey: other.publicKey.export({ format: 'der', type: 'spki' }) }];
    let now = 0;
    const learning = new JwtSvidVerifier({
      now: () => now,
      trustDomain: 'example.org',
      audience: ['hpcs-server'],
      authorities: async () => (asked++, keys),
    });
    await assert.rejects(learning.client(await token({})), refusedAs('unauthenticated', /not signed by this trust domain/));
    await assert.rejects(learning.client(await token({})), refusedAs('unauthenticated', /not signed by this trust domain/));
    assert.equal(asked, 1);
    keys.push({ keyId: 'k1', publicKey });
    now = 1999;
    await assert.rejects(learning.client(await token({})), refusedAs('unauthenticated', /not signed by this trust domain/));
    now = 2001;
    assert.equal(await learning.client(await token({})), '0123456af');
    assert.equal(asked, 2);
  });

  it('passes on that SPIRE cannot be asked', async () => {
    const down = new JwtSvidVerifier({
      trustDomain: 'example.org',
      audience: ['hpcs-server'],
      authorities: () => Promise.reject(new Error('down')),
    });
    await assert.rejects(down.client(await token({})), /down/);
  });
});

describe('the lifetime of a JWT-SVID', () => {
  it('ends with the session of the key that it is for, and a session that is about to end gets none', () => {
    const at = (seconds: number): Date => new Date(Date.now() + seconds * 1000);
    assert.equal(lifetimeUntil(undefined, 300), 300);
    assert.equal(lifetimeUntil(at(3600), 300), 300);
    const short = lifetimeUntil(at(60), 300);
    assert.ok(short >= 58 && short <= 60, `${short} s`);
    for (const seconds of [4.9, 0, -1, -3600])
      assert.throws(() => lifetimeUntil(at(seconds), 300), refusedAs('unauthenticated', /about to end/));
  });
});
