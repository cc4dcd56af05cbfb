import assert from 'node:assert/strict';
import { assert as check, constantFrom, property, string } from 'fast-check';
import { registerBody, workloadsBody } from '../../../src/server/bodies.ts';

const good = { jwt: 'a.b.c', secret: 'jp2a-0123', users: ['etu'], groups: null, compute_nodes: ['cn01'] };
const nodes = (count: number): string[] => Array.from({ length: count }, (_, index) => `n${index}`);
const accepts = (change: object): boolean => workloadsBody.safeParse({ ...good, ...change }).success;

describe('names of the API', () => {
  it('are those of UNIX, hosts and shipped files', () => {
    assert.ok(accepts({}));
    assert.ok(accepts({ secret: 'encrypted_jp2a_input.tgz' }));
    assert.ok(accepts({ users: null, groups: ['project_462000031'], compute_nodes: ['nid001234.local', 'CN-2'] }));
    assert.ok(accepts({ users: undefined, groups: ['g'] }));
  });

  for (const name of [
    '../x',
    '*',
    'a*',
    'a\nb',
    'a\0b',
    'a b',
    'a/b',
    '',
    '.',
    '..',
    'a+b',
    'ä',
    'a"b',
    'a{{b}}',
    'a%2fb',
    '+',
  ]) {
    it(`do not include ${JSON.stringify(name)}`, () => {
      assert.ok(!accepts({ secret: name }), 'secret');
      assert.ok(!accepts({ users: [name] }), 'user');
      assert.ok(!accepts({ groups: ['ok', name] }), 'group');
      assert.ok(!accepts({ compute_nodes: [name] }), 'node');
    });
  }

  for (const secret of ['X.TGZ', 'x.', '.x', '-x', 'x'.repeat(201)]) {
    it(`of secrets do not include ${secret.slice(0, 10)}`, () => assert.ok(!accepts({ secret })));
  }

  it('of secrets hold nothing that policies, roles or SPIFFE paths read otherwise', () => {
    check(
      property(
        string({
          unit: constantFrom('a', 'z', 'A', '9', '.', '_', '-', '/', '\\', '*', '+', '%', '{', '"', ' ', '\n', '\0', 'ä'),
          maxLength: 12,
        }),
        (secret) => {
          if (!accepts({ secret })) return;
          assert.match(secret, /^[a-z0-9][a-z0-9._-]*$/);
          assert.equal(secret.toLowerCase(), secret);
          assert.ok(!secret.endsWith('.'));
        },
      ),
    );
  });

  it('need somebody to read, somewhere', () => {
    assert.ok(!accepts({ users: null, groups: null }));
    assert.ok(!accepts({ users: [], groups: [] }));
    assert.ok(!accepts({ compute_nodes: [] }));
    assert.ok(!accepts({ compute_nodes: null }));
  });

  it('count once', () => {
    const parsed = workloadsBody.parse({ ...good, users: ['a', 'a'], compute_nodes: ['n', 'm', 'n'] });
    assert.deepEqual(parsed.users, ['a']);
    assert.deepEqual(parsed.compute_nodes, ['n', 'm']);
  });

  it('stay below a limit in all', () => {
    const users = Array.from({ length: 100 }, (_, index) => `u${index}`);
    assert.ok(accepts({ users, compute_nodes: nodes(100) }));
    assert.ok(!accepts({ users, compute_nodes: nodes(101) }));
  });
});

describe('body of register', () => {
  it('may be missing, as the original sends none', () => {
    assert.deepEqual(registerBody.parse(undefined), {});
    assert.deepEqual(registerBody.parse(null), {});
    assert.deepEqual(registerBody.parse({ uid: 0 }), { uid: 0 });
  });

  for (const uid of [-1, 1.5, '0', 2 ** 32, null, 'root:0']) {
    it(`refuses the uid ${JSON.stringify(uid)}`, () => assert.ok(!registerBody.safeParse({ uid }).success));
  }
});
