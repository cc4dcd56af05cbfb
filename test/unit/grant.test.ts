import assert from 'node:assert/strict';
import { mock } from 'node:test';
import { grantSecret, type GrantedSecret, type Granter } from '../../src/grant.ts';
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
            assert.ok(given !== undefined, 'it would wait as long as for a large grant');
            given.throwIfAborted();
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
  afterEach(() => mock.restoreAll());

  /** Grants, and takes it back where that fails or something after it does. */
  const grantSecretThen = async (client: Granter, next?: (grant: GrantedSecret) => void): Promise<GrantedSecret> => {
    await using undo = new AsyncDisposableStack();
    const grant = await grantSecret('data', readers, record, client, undo);
    next?.(grant);
    undo.move();
    return grant;
  };

  it('stays when its record was stored, and is taken back when what comes after it fails', async () => {
    await grantSecretThen(granter({}, signal));
    assert.deepEqual(destroyed, []);
    const interrupted = new AbortController();
    let path = '';
    const next = ({ secretPath }: GrantedSecret): void => {
      path = secretPath;
      interrupted.abort(refused);
      interrupted.signal.throwIfAborted();
    };
    await assert.rejects(grantSecretThen(granter({}, interrupted.signal), next), refused);
    assert.deepEqual(destroyed, [path]);
  });

  it('is taken back when its record cannot be stored, also because of an interruption', async () => {
    await assert.rejects(grantSecretThen(granter({ write: refused }, signal)), refused);
    await assert.rejects(grantSecretThen(granter({}, AbortSignal.abort(refused))), refused);
    assert.equal(destroyed.length, 2);
    assert.deepEqual(warnings, []);
  });

  it('is taken back when the answer to its grant does not come, with which the server goes on', async () => {
    await assert.rejects(grantSecretThen(granter({ permit: refused }, signal)), refused);
    assert.match(destroyed.join(), /^client_c\/data-[0-9a-f]{32}$/);
  });

  it('is not there where its grant was refused: it is neither taken back nor warned of', async () => {
    const no = new HpcsError('identity', 'hpcs-bad-request', 'no such user');
    await assert.rejects(grantSecretThen(granter({ permit: no, destroy: refused }, signal)), no);
    for (const code of ['hpcs-unavailable', 'hpcs-refused']) {
      const half = new HpcsError('identity', code, 'half done');
      await assert.rejects(grantSecretThen(granter({ permit: half }, signal)), half);
    }
    assert.deepEqual([destroyed.length, warnings], [2, []]);
  });

  it('is named when it cannot be taken back; what went wrong first is what is thrown', async () => {
    const down = new HpcsError('identity', 'hpcs-unreachable', 'no answer');
    await assert.rejects(grantSecretThen(granter({ write: refused, destroy: down }, signal)), refused);
    assert.match(
      warnings.join(),
      /^the secret client_c\/data\S*, which nothing will use, may stay in the vault: no answer; destroy it later: hpcs access destroy client_c\/data/,
    );
  });

  it('is waited for no longer than somebody who interrupted waits, when it is taken back', async () => {
    const limits: number[] = [];
    mock.method(AbortSignal, 'timeout', (limit: number) => {
      limits.push(limit);
      return AbortSignal.abort(new DOMException('the operation was aborted due to timeout', 'TimeoutError'));
    });
    await assert.rejects(grantSecretThen(granter({ write: refused }, signal)), refused);
    assert.deepEqual(limits, [15_000]);
    assert.match(warnings.join(), /may stay in the vault: no answer within 15 s; destroy/);
  });
});
