import assert from 'node:assert/strict';
import { grantSecret, takeBack, type Granter } from '../../src/grant.ts';
import { HpcsError } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';

const refused = new HpcsError('identity', 'vault-refused', 'the vault refuses');
const record = { artefact: '0', kind: 'data', format: 'age', created: '', key: 'k' } as const;

describe('a secret that is granted', () => {
  let destroyed: string[];
  let warnings: string[];

  /** A client whose vault and whose HPCS server may fail. */
  const granter = (
    { permit, write, destroy }: { permit?: HpcsError; write?: HpcsError; destroy?: HpcsError },
    signal: AbortSignal,
  ): Granter =>
    ({
      mode: 'job',
      signal,
      warn: (line: string) => void warnings.push(line),
      identity: { clientId: 'c', spiffeId: 'spiffe://t/c', prove: () => ({}), jwt: async () => new Secret('j') },
      services: {
        audiences: { hpcsServer: 'h', vault: 'v' },
        server: {
          permit: async ({ secret }: { secret: string }) => {
            if (permit !== undefined) throw permit;
            return { secretPath: `client_c/${secret}`, role: '', spiffeId: '' };
          },
          destroySecret: async (path: string, _prove: unknown, given?: AbortSignal) => {
            given?.throwIfAborted();
            if (destroy !== undefined) throw destroy;
            destroyed.push(path);
          },
        },
        vault: {
          login: async () => ({
            writeNew: async () => {
              if (write !== undefined) throw write;
              signal.throwIfAborted();
            },
            async [Symbol.asyncDispose]() {},
          }),
        },
      },
    }) as unknown as Granter;
  const readers = { users: [], groups: [], nodes: [] };
  const { signal } = new AbortController();

  beforeEach(() => ([destroyed, warnings] = [[], []]));

  it('stays when its record was stored, until it is taken back', async () => {
    const grant = await grantSecret('data', readers, record, granter({}, signal));
    assert.deepEqual(destroyed, []);
    await takeBack(grant, granter({}, AbortSignal.abort()));
    assert.deepEqual(destroyed, [grant.secretPath]);
  });

  it('is taken back when its record cannot be stored, also because of an interruption', async () => {
    await assert.rejects(grantSecret('data', readers, record, granter({ write: refused }, signal)), refused);
    await assert.rejects(grantSecret('data', readers, record, granter({}, AbortSignal.abort(refused))), refused);
    assert.equal(destroyed.length, 2);
    assert.deepEqual(warnings, []);
  });

  it('is taken back when the answer to its grant does not come, with which the server goes on', async () => {
    await assert.rejects(grantSecret('data', readers, record, granter({ permit: refused }, signal)), refused);
    assert.match(destroyed.join(), /^client_c\/data-[0-9a-f]{32}$/);
  });

  it('is named when it cannot be taken back; what went wrong first is what is thrown', async () => {
    const down = new HpcsError('identity', 'hpcs-unreachable', 'no answer');
    await assert.rejects(grantSecret('data', readers, record, granter({ write: refused, destroy: down }, signal)), refused);
    assert.match(warnings.join(), /^the secret client_c\/data\S*, which nothing will use, may stay in the vault: no answer$/);
  });
});
