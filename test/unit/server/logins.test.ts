import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mock } from 'node:test';
import { HpcsError } from '../../../src/errors.ts';
import { generateProofKey, thumbprintOf, type Proof } from '../../../src/identity/proof.ts';
import { Secret } from '../../../src/secret.ts';
import { Clients } from '../../../src/server/clients.ts';
import { issuerSection } from '../../../src/server/issuer-config.ts';
import { Issuers } from '../../../src/server/issuers.ts';
import { Logins } from '../../../src/server/logins.ts';
import { Store } from '../../../src/server/store.ts';
import { makeCertificate } from '../../support/certificate.ts';
import { CiIssuers, gitlabClaims } from '../../support/issuer.ts';
import { refused } from '../../support/refused.ts';
import { SmallVault } from '../../support/small-vault.ts';

const minute = 60_000;
const ended = refused('key-ended', /was logged out, or revoked/);
const unknown = refused('unauthenticated', /not enrolled here, or no longer/);

describe('a key that came with a login', () => {
  let directory: string;
  let ci: CiIssuers;
  let issuers: Issuers;
  let vault: SmallVault;
  let clients: Clients;
  let logins: Logins;
  let key: string;
  let proofs = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-logins-'));
    ci = await CiIssuers.start({ host: '127.0.0.1', tls: makeCertificate(directory) }, ['gitlab']);
    const section = { url: ci.url('gitlab'), kind: 'gitlab', audience: 'hpcs', projects: '42', 'ca-file': join(directory, 'server.pem') }; // prettier-ignore
    issuers = await Issuers.open([{ ...issuerSection.parse(section), alias: 'gitlab' }]);
  });
  after(async () => {
    await ci[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });
  beforeEach(async () => {
    vault = new SmallVault();
    const store = new Store(vault.admin);
    clients = new Clients(store, vault.admin, 'example.org');
    logins = new Logins(store, clients, issuers, () => undefined);
    key = await thumbprintOf(await generateProofKey());
  });
  afterEach(() => mock.timers.reset());

  const proof = (thumbprint = key): Proof => ({ thumbprint, id: String((proofs += 1)), issuedAt: Date.now() / 1000 });
  const token = async (lifetime = 3600): Promise<Secret> => {
    const now = Math.floor(Date.now() / 1000);
    return new Secret(await ci.sign('gitlab', gitlabClaims({ aud: 'hpcs', iat: now, nbf: now, exp: now + lifetime })));
  };
  const at = (time: number): void => {
    mock.timers.reset();
    mock.timers.enable({ apis: ['Date'], now: time });
  };

  it('counts no more when it was logged out, and its token begins no other session, with no key', async () => {
    const shown = await token();
    await logins.login(shown, proof());
    await logins.login(shown, proof());
    await clients.dismiss(key);
    await assert.rejects(clients.authenticate(proof()), unknown);
    await assert.rejects(logins.login(shown, proof()), ended);
    await assert.rejects(clients.authenticate(proof()), unknown);
    const other = await thumbprintOf(await generateProofKey());
    await assert.rejects(logins.login(shown, proof(other)), refused('forbidden', /with another key already/));
    await assert.rejects(clients.authenticate(proof(other)), unknown);
    // He is no stranger for that, nor is a new token lost that comes with the old key first.
    const fresh = await token();
    await assert.rejects(logins.login(fresh, proof()), ended);
    await logins.login(fresh, proof(other));
    await clients.authenticate(proof(other));
  });

  it('is forgotten when it was logged out and its token has ended, and not before', async () => {
    const start = Date.now();
    const shown = await token(6 * 3600);
    const { expires } = await logins.login(shown, proof());
    assert.ok(expires.getTime() < start + 61 * minute);
    await clients.dismiss(key);
    const known = (): string[] => vault.below(`hpcs-server/keys/${key}`);
    // The session is over, its token is not.
    at(start + 5 * 60 * minute);
    await logins.tidy();
    await assert.rejects(logins.login(shown, proof()), ended);
    assert.equal(known().length, 1);
    at(start + 9 * 60 * minute);
    await logins.tidy();
    assert.deepEqual([...known(), ...vault.below('hpcs-server/sessions/'), ...vault.below('hpcs-server/logins/')], []);
    await assert.rejects(logins.login(shown, proof()), refused('unauthenticated', /expired/));
  });

  it('whose session ended by the clock may come with its token again, while that is taken', async () => {
    const start = Date.now();
    const shown = await token(6 * 3600);
    await logins.login(shown, proof());
    at(start + 120 * minute);
    await logins.tidy();
    await assert.rejects(clients.authenticate(proof()), refused('unauthenticated', /has ended: log in again/));
    await logins.login(shown, proof());
    await clients.authenticate(proof());
  });

  it('never counts again when it was revoked, whatever it comes with and however late', async () => {
    const start = Date.now();
    const shown = await token();
    const { client } = await logins.login(shown, proof());
    assert.equal(await clients.revokeKey(key), client.id);
    assert.equal(await clients.revokeKey(key), undefined);
    await assert.rejects(clients.authenticate(proof()), unknown);
    await assert.rejects(logins.login(shown, proof()), ended);
    assert.deepEqual((await clients.all()).map(({ keys }) => keys), [[]]); // prettier-ignore
    at(start + 30 * 24 * 60 * minute);
    await logins.tidy();
    await assert.rejects(logins.login(await token(), proof()), ended);
    const invited = await clients.invite({ name: 'alice', groups: [], lifetime: 3600 });
    await assert.rejects(clients.enrol(invited.token, proof()), ended);
    // The invitation is not lost for that.
    const other = await thumbprintOf(await generateProofKey());
    await clients.enrol(invited.token, proof(other));
    await clients.revokeKey(other);
    await assert.rejects(clients.enrol(invited.token, proof(other)), ended);
    await assert.rejects(clients.authenticate(proof(other)), unknown);
  });

  it('is not enrolled beside, and an enrolled one is not logged out', async () => {
    await logins.login(await token(), proof());
    const { token: invited } = await clients.invite({ name: 'alice', groups: [], lifetime: 3600 });
    await assert.rejects(clients.enrol(invited, proof()), refused('key-conflict', /came with a login/));
    const other = await thumbprintOf(await generateProofKey());
    await clients.enrol((await clients.invite({ name: 'bert', groups: [], lifetime: 3600 })).token, proof(other));
    await clients.dismiss(other);
    await clients.authenticate(proof(other));
  });

  it('leaves nothing in the vault when it is refused for coming too often', async () => {
    const { token: invited } = await clients.invite({ name: 'alice', groups: [], lifetime: 3600 });
    const shown = await token();
    const asked: string[] = [];
    const busy = async (who: string): Promise<void> => {
      asked.push(who);
      throw new HpcsError('identity', 'too-many-requests', 'too many');
    };
    const before = [...vault.secrets.keys()];
    const often = refused('too-many-requests');
    await assert.rejects(logins.login(shown, proof(), busy), often);
    await assert.rejects(clients.enrol(invited, proof(), busy), often);
    assert.deepEqual([...vault.secrets.keys()], before);
    await logins.login(shown, proof());
    const { id } = await clients.authenticate(proof());
    const admitted = [...vault.secrets.keys()];
    await assert.rejects(clients.authenticate(proof(), busy), often);
    assert.deepEqual([...vault.secrets.keys()], admitted);
    // Whoever is not known is not asked about, and leaves nothing either.
    await assert.rejects(clients.authenticate(proof('x'.repeat(43)), busy), unknown);
    assert.deepEqual([asked.length, asked[2], [...vault.secrets.keys()]], [3, id, admitted]);
    assert.match(asked[0] ?? '', /gitlab .* 42$/);
  });

  it('is not made to count by a login that is answered while it is revoked', async () => {
    const shown = await token();
    await logins.login(shown, proof());
    const results = await Promise.allSettled([
      logins.login(shown, proof()),
      clients.revokeKey(key),
      logins.login(shown, proof()),
    ]);
    assert.equal(results[1].status, 'fulfilled');
    await assert.rejects(clients.authenticate(proof()), unknown);
  });
});
