import assert from 'node:assert/strict';
import { generateProofKey, thumbprintOf, type Proof } from '../../../src/identity/proof.ts';
import { Clients, type ClientRecord } from '../../../src/server/clients.ts';
import { Store } from '../../../src/server/store.ts';
import { refused } from '../../support/refused.ts';
import { SmallVault } from '../../support/small-vault.ts';

describe('clients of the server', () => {
  let vault: SmallVault;
  let draws: string[];
  let clients: Clients;

  beforeEach(() => {
    vault = new SmallVault();
    draws = [];
    clients = new Clients(new Store(vault.admin), vault.admin, 'example.org', () => undefined, () => draws.shift() ?? assert.fail()); // prettier-ignore
  });

  const proofOf = async (id: string): Promise<Proof> => {
    return { thumbprint: await thumbprintOf(await generateProofKey()), id, issuedAt: Date.now() / 1000 };
  };
  const enrol = async (name: string, groups?: string[]): Promise<ClientRecord> => {
    const { token } = await clients.invite({ name, groups, lifetime: 60 });
    return clients.enrol(token, await proofOf(name));
  };

  it('never get an id that is or was another’s, however they came by it', async () => {
    draws = ['00000000a', '00000000b', '00000000c'];
    assert.equal((await enrol('alice')).id, '00000000a');
    assert.equal((await enrol('bert')).id, '00000000b');
    await clients.remove('00000000b');
    assert.equal(await clients.reserve(), '00000000c');
    // One that was registered before ids were remembered.
    const role = 'auth/jwt/role/client_00000000d';
    vault.others.set(role, { bound_subject: 'spiffe://example.org/c/00000000d/workload', token_policies: ['client_00000000d'] });
    draws = ['00000000a', '00000000b', '00000000c', '00000000d', '00000000e'];
    assert.equal(await clients.reserve(), '00000000e');
    draws = ['00000000e', '00000000c', '00000000d', '00000000f'];
    assert.equal((await enrol('carl')).id, '00000000f');
    assert.deepEqual((await clients.all()).map(({ id }) => id).toSorted(), ['00000000a', '00000000b', '00000000f']); // prettier-ignore
    await clients.remove('00000000c');
    draws = ['00000000c', '000000010'];
    assert.equal(await clients.reserve(), '000000010');
  });

  it('keep their groups where another key is enrolled, unless its token says which they have from then on', async () => {
    draws = ['00000000a', '00000000b'];
    assert.deepEqual((await enrol('alice')).groups, []);
    assert.deepEqual((await enrol('alice', ['genomics'])).groups, ['genomics']);
    assert.deepEqual((await enrol('alice')).groups, ['genomics']);
    assert.deepEqual((await enrol('alice', ['imaging', 'genomics'])).groups, ['imaging', 'genomics']);
    assert.deepEqual((await enrol('alice', [])).groups, []);
    assert.deepEqual((await enrol('alice', ['genomics'])).groups, ['genomics']);
    // Earlier versions wrote an empty list where no groups were named.
    const { token } = await clients.invite({ name: 'alice', groups: ['imaging'], lifetime: 60 });
    for (const path of vault.below('hpcs-server/enrolments/'))
      vault.put(path, { ...(vault.secrets.get(path)?.data as object), groups: [] });
    assert.deepEqual((await clients.enrol(token, await proofOf('old'))).groups, ['genomics']);
    assert.deepEqual((await clients.find('00000000a'))?.groups, ['genomics']);
  });

  it('do not get groups back that were taken away since, by a token that was made before', async () => {
    draws = ['00000000a', '00000000b'];
    const before = await clients.invite({ name: 'alice', groups: ['genomics'], lifetime: 60 });
    const plain = await clients.invite({ name: 'alice', lifetime: 60 });
    const other = await clients.invite({ name: 'bert', groups: ['genomics'], lifetime: 60 });
    assert.deepEqual((await enrol('alice', [])).groups, []);
    assert.deepEqual((await clients.enrol(before.token, await proofOf('before'))).groups, []);
    assert.deepEqual((await enrol('alice', ['imaging'])).groups, ['imaging']);
    assert.deepEqual((await clients.enrol(plain.token, await proofOf('plain'))).groups, ['imaging']);
    assert.deepEqual((await clients.enrol(other.token, await proofOf('other'))).groups, ['genomics']);
  });

  it('have the groups that one of several tokens gives them, where all are used at once', async () => {
    draws = Array.from({ length: 8 }, (_, index) => `00000000${index}`);
    await Promise.all([enrol('alice'), enrol('alice', ['genomics']), enrol('alice'), enrol('alice')]);
    assert.deepEqual((await clients.named('alice'))?.groups, ['genomics']);
  });

  it('leave nothing in the vault where they are removed while their login waits', async () => {
    const principal = { identity: 'oidc-people https://idp anna', name: 'oidc:idp:anna', groups: [] };
    const times = { expires: new Date(Date.now() + 60_000), token: new Date() };
    const admit = async (): Promise<string> =>
      (await clients.admit(principal, await thumbprintOf(await generateProofKey()), times)).id;
    draws = ['00000000a'];
    const id = await admit();
    const roles = (): string[] => [...vault.others.keys()].filter((path) => path.includes(id));
    assert.equal(roles().length, 2);
    // Removed in the moment in which the login writes the policy.
    let removal: Promise<void> | undefined;
    vault.refuse = (method, path) => {
      if (method === 'POST' && path.startsWith('sys/policies/')) removal ??= clients.remove(id);
      return undefined;
    };
    await assert.rejects(admit(), refused('forbidden', /the client 00000000a was removed/));
    assert.ok(removal !== undefined);
    await removal;
    assert.deepEqual(roles(), []);
  });

  it('are found by what an administrator is shown: id, enrolled name, or the name that their issuer gives them', async () => {
    const identities: Record<string, string> = { 'oidc:idp:anna': 'oidc-people https://idp anna', 'oidc:idp:a b': 'oidc-people https://idp a b' }; // prettier-ignore
    const knows = (name: string): string | undefined => identities[name];
    const administrator = new Clients(new Store(vault.admin), vault.admin, 'example.org', knows);
    const logIn = async (name: string, identity: string): Promise<string> => {
      const principal = { identity, name, groups: [] };
      const times = { expires: new Date(Date.now() + 60_000), token: new Date() };
      return (await administrator.admit(principal, await thumbprintOf(await generateProofKey()), times)).id;
    };
    const anna = await logIn('oidc:idp:anna', 'oidc-people https://idp anna');
    const spaced = await logIn('oidc:idp:a b', 'oidc-people https://idp a b');
    // Of an issuer that the configuration names no more.
    const gone = await logIn('oidc:old:carl', 'oidc-people https://old carl');
    draws = ['00000000a'];
    await enrol('anna');
    const shown = (await administrator.all()).flatMap(({ id, name }) => [[id, id], [name, id]] as const); // prettier-ignore
    assert.equal(shown.length, 8);
    for (const [named, id] of shown) assert.equal(await administrator.idOf(named), id, named);
    for (const nobody of ['oidc:idp:bert', 'oidc:idp:', 'bert', 'enrolled:anna', 'oidc-people https://idp anna'])
      assert.equal(await administrator.idOf(nobody), undefined, nobody);
    assert.equal(await administrator.idOf('oidc:old:carl'), gone);

    // Removed, he is still who he was, so that a removal can be repeated.
    await administrator.remove(anna);
    assert.equal(await administrator.idOf('oidc:idp:anna'), anna);
    await administrator.remove(gone);
    assert.equal(await administrator.idOf('oidc:old:carl'), undefined);

    // The alias was another issuer's before.
    await logIn('oidc:idp:a b', 'oidc-people https://before a b');
    await assert.rejects(administrator.idOf('oidc:idp:a b'), refused('which-client', new RegExp(`several clients .*${spaced}`)));
  });

  it('that have no identity here are nobody to grants, and can be removed', async () => {
    draws = ['00000000a'];
    const id = await clients.reserve();
    assert.equal(await clients.find(id), undefined);
    assert.equal(await clients.named(id), undefined);
    assert.deepEqual(await clients.all(), []);
    assert.equal(await clients.isRemoved(id), false);
    await clients.remove(id);
    assert.equal(await clients.isRemoved(id), true);
    assert.deepEqual((await clients.all()).map((client) => client.id), [id]); // prettier-ignore
  });
});
