import assert from 'node:assert/strict';
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT, type JWK } from 'jose';
import { generateProofKey, keyProver, proofWindow, verifyProof } from '../../../src/identity/proof.ts';

const url = 'https://hpcs.example.org:10080/api/client/token';
const request = { method: 'POST', path: '/api/client/token', body: '{"audience":"vault"}' };
const own = ({ origin }: URL): boolean => origin === 'https://hpcs.example.org:10080';
const refused = (message: RegExp) => ({ code: 'unauthenticated', message });

describe('a proof of possession', () => {
  let key: JWK;
  let proof: string;

  before(async () => {
    key = await generateProofKey();
    proof = String((await keyProver(key)({ method: 'POST', url, body: request.body }))['dpop']);
  });

  const verify = (changes: Partial<typeof request> = {}, text = proof, now?: number) =>
    verifyProof(text, { ...request, ...changes }, own, now);

  it('names the key that made it, and never holds its private half', async () => {
    const { thumbprint, id } = await verify();
    assert.equal(thumbprint, await calculateJwkThumbprint(key));
    assert.ok(id.length >= 16);
    const header = JSON.parse(Buffer.from(proof.split('.')[0] ?? '', 'base64url').toString()) as { jwk: JWK };
    assert.deepEqual(Object.keys(header.jwk).toSorted(), ['crv', 'kty', 'x', 'y']);
  });

  it('is another one for each request', async () => {
    const again = String((await keyProver(key)({ method: 'POST', url, body: request.body }))['dpop']);
    assert.notEqual((await verify({}, again)).id, (await verify()).id);
  });

  it('counts for its own method, call and body alone', async () => {
    await assert.rejects(verify({ method: 'GET' }), refused(/for another method/));
    await assert.rejects(verify({ path: '/api/jobs' }), refused(/for another call/));
    await assert.rejects(verify({ path: '/api/client/token?x=y' }), refused(/for another call/));
    await assert.rejects(verify({ body: '{"audience":"hpcs-server"}' }), refused(/for another body/));
    await assert.rejects(verify({ body: '' }), refused(/for another body/));
  });

  it('counts at its own server alone: another one cannot hand it on', async () => {
    const other = String(
      (await keyProver(key)({ method: 'POST', url: url.replace('hpcs.', 'evil.'), body: request.body }))['dpop'],
    );
    await assert.rejects(verify({}, other), refused(/for another server, https:\/\/evil\.example\.org:10080/));
  });

  it('counts for minutes', async () => {
    const now = Date.now() / 1000;
    await verify({}, proof, now + proofWindow - 5);
    await assert.rejects(verify({}, proof, now + proofWindow + 5), refused(/ s old$/));
    await assert.rejects(verify({}, proof, now - proofWindow - 5), refused(/ s from now: check the clocks/));
  });

  it('is refused when any part of it was changed', async () => {
    const [header = '', payload = '', signature = ''] = proof.split('.');
    const other = await generateProofKey();
    const decode = (text: string): Record<string, unknown> =>
      JSON.parse(Buffer.from(text, 'base64url').toString()) as Record<string, unknown>;
    const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const { kty, crv, x, y } = other;
    for (const forged of [
      `${header}.${encode({ ...decode(payload), jti: 'x'.repeat(22) })}.${signature}`,
      `${encode({ ...decode(header), jwk: { kty, crv, x, y } })}.${payload}.${signature}`,
      `${encode({ ...decode(header), alg: 'none' })}.${payload}.`,
      `${encode({ ...decode(header), alg: 'HS256' })}.${payload}.${signature}`,
      `${encode({ ...decode(header), typ: 'JWT' })}.${payload}.${signature}`,
      `${encode({ ...decode(header), jwk: undefined })}.${payload}.${signature}`,
      `${header}.${payload}.`,
      `${proof}, ${proof}`,
      'x'.repeat(5000),
      '',
    ])
      await assert.rejects(verify({}, forged), refused(/^the proof of possession is not valid: /), forged.slice(0, 80));
  });

  it('is refused when its key is a private or a symmetric one, or its id is short', async () => {
    const { privateKey } = await generateKeyPair('ES256', { extractable: true });
    const jwk = await exportJWK(privateKey);
    const make = (header: JWK, jti: string): Promise<string> =>
      new SignJWT({ htm: 'POST', htu: url, body: 'x' })
        .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk: header })
        .setJti(jti)
        .setIssuedAt()
        .sign(privateKey);
    await assert.rejects(verify({}, await make(jwk, 'x'.repeat(22))), refused(/malformed/));
    const { d: _, ...open } = jwk;
    await assert.rejects(verify({}, await make(open, 'short')), refused(/claim jti/));
    await assert.rejects(verify({}, await make({ kty: 'oct', k: 'AAAA' }, 'x'.repeat(22))), refused(/malformed/));
  });

  it('is read with Ed25519 too', async () => {
    const { publicKey, privateKey } = await generateKeyPair('EdDSA', { extractable: true });
    const text = await new SignJWT({ htm: 'POST', htu: url, body: '47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU' })
      .setProtectedHeader({ alg: 'EdDSA', typ: 'dpop+jwt', jwk: await exportJWK(publicKey) })
      .setJti('x'.repeat(22))
      .setIssuedAt()
      .sign(privateKey);
    assert.equal((await verify({ body: '' }, text)).id, 'x'.repeat(22));
  });
});
