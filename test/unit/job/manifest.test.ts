import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { parseManifest, renderManifest, type ResultManifest } from '../../../src/job/manifest.ts';
import { Secret } from '../../../src/secret.ts';

const key = new Secret('0f'.repeat(32));
const manifest: ResultManifest = {
  version: 1,
  job: { id: '77', name: 'hpcs', restart: 0 },
  image: { artefact: '1'.repeat(32), sha512: 'a'.repeat(128) },
  data: { artefact: '2'.repeat(32), sha512: 'b'.repeat(128) },
  flags: ['--env', 'A=é"\n'],
  exitCode: 0,
  partial: null,
  result: { sha512: 'c'.repeat(128), size: 1, format: 'openpgp' },
  finished: '2026-01-01T00:00:00Z',
};

/** The envelope of a payload, authenticated with `secret`. */
function envelope(payload: string, secret = key): string {
  const hmac = createHmac('sha256', Buffer.from(secret.reveal(), 'hex'))
    .update('hpcs result manifest 1\n')
    .update(payload)
    .digest('hex');
  return JSON.stringify({ payload, hmac });
}

const forged = { code: 'manifest-forged', exitCode: 7, suggestion: /do not use these results/ };
const invalid = { code: 'manifest-invalid', exitCode: 7, suggestion: /do not use these results/ };
const foreign = { ...invalid, suggestion: /the version of hpcs-client that submitted/ };

describe('result manifest', () => {
  it('is read as it was written', () => assert.deepEqual(parseManifest(renderManifest(manifest, key), key), manifest));

  it('is HMAC-SHA256 over a line of its own and the payload', () => {
    assert.deepEqual(JSON.parse(renderManifest(manifest, key)), JSON.parse(envelope(JSON.stringify(manifest))));
  });

  it('is refused when any character of its payload or code was changed', () => {
    const text = renderManifest(manifest, key);
    for (let at = 0; at < text.length; at++) {
      const changed = text.slice(0, at) + (text[at] === '1' ? '2' : '1') + text.slice(at + 1);
      let read: ResultManifest | undefined;
      try {
        read = parseManifest(changed, key);
      } catch (error) {
        assert.match(String(Reflect.get(error as object, 'code')), /^manifest-(forged|invalid)$/);
      }
      // White space of the envelope says nothing.
      if (read !== undefined) assert.deepEqual(read, manifest);
    }
  });

  it('is refused with the key of another job', () => {
    assert.throws(() => parseManifest(renderManifest(manifest, new Secret('00'.repeat(32))), key), forged);
  });

  it('is refused with a code of another purpose of the same key', () => {
    const payload = JSON.stringify(manifest);
    const hmac = createHmac('sha256', Buffer.from(key.reveal(), 'hex')).update(payload).digest('hex');
    assert.throws(() => parseManifest(JSON.stringify({ payload, hmac }), key), forged);
  });

  it('is authenticated before it is read', () => {
    assert.throws(() => parseManifest(JSON.stringify({ payload: 'not JSON', hmac: '0'.repeat(64) }), key), forged);
  });

  it('is refused where it has another form', () => {
    for (const text of [
      '',
      'x',
      'null',
      '[]',
      '{}',
      '{"payload":"{}"}',
      `{"payload":{},"hmac":"${'0'.repeat(64)}"}`,
      '{"payload":"{}","hmac":"00"}',
      `{"payload":"{}","hmac":"${'0'.repeat(63)}Z"}`,
    ]) {
      assert.throws(() => parseManifest(text, key), invalid, text);
    }
    for (const payload of [
      '',
      '{}',
      JSON.stringify({ ...manifest, version: 2 }),
      JSON.stringify({ ...manifest, exitCode: '0' }),
      JSON.stringify({ ...manifest, result: null }),
    ]) {
      assert.throws(() => parseManifest(envelope(payload), key), foreign, payload);
    }
  });

  it('is not made or read with a key that is cut short, which anybody could guess', () => {
    for (const short of ['', 'zz'.repeat(32), '0f']) {
      assert.throws(() => renderManifest(manifest, new Secret(short)), { code: 'bug' });
      assert.throws(() => parseManifest(envelope(JSON.stringify(manifest), new Secret(short)), new Secret(short)), {
        code: 'bug',
      });
    }
  });
});
