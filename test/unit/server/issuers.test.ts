import assert from 'node:assert/strict';
import type { HpcsError } from '../../../src/errors.ts';
import { parseServerConfig } from '../../../src/server/config.ts';
import { bindingOf, sessionOf, type Issuer } from '../../../src/server/issuer-config.ts';
import { namedIdentity, principalOf } from '../../../src/server/issuer-rules.ts';
import { githubClaims, gitlabClaims } from '../../support/issuer.ts';
import { refused } from '../../support/refused.ts';

const base = `
[spire-server]
address = localhost
port = 8081
trust-domain = hpcs
[vault]
url = https://vault:8200
server-role = hpcs-server
[tls]
cert-file = /c
key-file = /k
`;
const people = '[issuer people]\nurl = https://idp.example.org/realms/hpcs\nkind = people\naudience = hpcs\n';
const github = '[issuer github]\nurl = https://token.example.org\nkind = github\naudience = hpcs\nrepositories = 1001\n';
const gitlab = '[issuer gitlab]\nurl = https://gitlab.example.org\nkind = gitlab\naudience = hpcs\nprojects = 42\n';

function issuer(text: string): Issuer {
  const [found] = parseServerConfig(base + text, 'x.conf').issuers;
  assert.ok(found);
  return found;
}

const wrong = (text: string, message: RegExp): void =>
  assert.throws(
    () => parseServerConfig(base + text, 'x.conf'),
    (error: HpcsError) => error.kind === 'usage' && (assert.match(error.message, message), true),
  );

const notAllowed = (claim: string) => refused('forbidden', new RegExp(`do not allow this token: ${claim} is `));

describe('trusted issuers', () => {
  it('have sections of their own, with defaults of their kind', () => {
    const { issuers } = parseServerConfig(base + people + github + gitlab, 'x.conf');
    assert.deepEqual(
      issuers.map((one) => [one.alias, bindingOf(one), sessionOf(one)]),
      [
        ['people', 'none', 43_200],
        ['github', 'audience', 3600],
        ['gitlab', 'none', 3600],
      ],
    );
    assert.deepEqual(parseServerConfig(base, 'x.conf').issuers, []);
  });

  it('are refused where anybody would be let in, or a rule could not hold', () => {
    wrong(github.replace(/repositories.*\n/, ''), /\[issuer github\] repositories: expected the ids of repositories/);
    wrong(github.replace('1001', 'octo-org/octo-repo'), /\[issuer github\] repositories: expected ids, which are numbers/);
    wrong(gitlab.replace(/projects.*\n/, ''), /\[issuer gitlab\] projects: expected the ids of projects/);
    wrong(`${people}projects = 42\n`, /\[issuer people\] projects: expected kind = gitlab/);
    wrong(`${people}refs = refs/heads/main\n`, /\[issuer people\] refs: expected kind = github or gitlab/);
    wrong(people.replace('https://', 'http://'), /\[issuer people\] url: expected an https URL/);
    wrong(people.replace('kind = people', 'kind = google'), /\[issuer people\] kind: expected people, github/);
    for (const algorithm of ['none', 'HS256'])
      wrong(`${people}algorithms = ${algorithm}\n`, /\[issuer people\] algorithms: expected/);
    wrong(`${people}groups = theirs=ours\n`, /\[issuer people\] groups-claim: expected the claim that holds groups/);
    wrong(`${people}groups-claim = groups\ngroups = theirs=OURS\n`, /\[issuer people\] groups: expected theirs=ours/);
    wrong(`${people}require = email\n`, /\[issuer people\] require: expected rules such as/);
    wrong(`${people}session = 10\n`, /\[issuer people\] session: expected seconds, from 300/);
    wrong(`${people}audiences = x\n`, /unknown key in section \[issuer people\]: audiences/);
    wrong(people.replace('[issuer people]', '[issuer People]'), /unknown section: issuer People/);
    wrong(people + people.replace('issuer people', 'issuer twin'), /the issuers people and twin have the same url/);
  });

  it('let in what all their rules allow, each value by its whole text', () => {
    const strict = issuer(`${people}require = email_verified=true, amr=mfa|hwk, hd=example.org\n`);
    const claims = { sub: 'x', email_verified: true, amr: ['pwd', 'hwk'], hd: 'example.org' };
    assert.equal(principalOf(strict, claims).name, 'oidc:people:x');
    for (const [claim, value] of Object.entries({ email_verified: false, amr: 'pwd', hd: 'example.org.evil' }))
      assert.throws(() => principalOf(strict, { ...claims, [claim]: value }), notAllowed(claim));
    assert.throws(() => principalOf(strict, { ...claims, amr: undefined }), notAllowed('amr'));
    for (const sub of ['', 'a\nb', 'x'.repeat(256)]) assert.throws(() => principalOf(issuer(people), { sub }), notAllowed('sub'));
  });

  it('map groups that are named, and no others', () => {
    const mapped = issuer(`${people}groups-claim = groups\ngroups = /hpc/genomics=genomics, staff=team, boss=team\n`);
    assert.deepEqual(principalOf(mapped, { sub: 'x', groups: ['/hpc/genomics', 'boss', 'staff', 'root'] }).groups, [
      'genomics',
      'team',
    ]);
    assert.deepEqual(principalOf(mapped, { sub: 'x', groups: 'staff' }).groups, ['team']);
    assert.deepEqual(principalOf(mapped, { sub: 'x', groups: { staff: true } }).groups, []);
    assert.deepEqual(principalOf(issuer(people), { sub: 'x', groups: ['team'] }).groups, []);
  });

  it('let runs of pull requests in where a rule says so, and only those', () => {
    const pull = githubClaims({ event_name: 'pull_request', ref: 'refs/pull/7/merge', ref_protected: 'false' });
    assert.throws(() => principalOf(issuer(github), pull), notAllowed('event_name'));
    const open = issuer(`${github}allow-pull-requests = true\n`);
    assert.equal(principalOf(open, pull).name, 'oidc:github:77/1001');
    assert.throws(() => principalOf(open, { ...pull, repository_id: '1002' }), notAllowed('repository_id'));
    assert.throws(() => principalOf(open, { ...pull, event_name: 'pull_request_target' }), notAllowed('event_name'));
    const merge = gitlabClaims({ pipeline_source: 'merge_request_event', ref_path: 'refs/merge-requests/1/head' });
    assert.throws(() => principalOf(issuer(gitlab), merge), notAllowed('pipeline_source'));
    assert.equal(principalOf(issuer(`${gitlab}allow-pull-requests = true\n`), merge).name, 'oidc:gitlab:42');
  });

  it('let protected branches in, or those that are named', () => {
    const topic = githubClaims({ ref: 'refs/heads/topic', ref_protected: 'false' });
    assert.throws(() => principalOf(issuer(github), topic), notAllowed('ref_protected'));
    principalOf(issuer(`${github}refs = refs/heads/topic\n`), topic);
    const tags = issuer(`${github}refs = refs/tags/v*\n`);
    principalOf(tags, githubClaims({ ref: 'refs/tags/v1', ref_protected: 'false' }));
    assert.throws(() => principalOf(tags, githubClaims({ ref: 'refs/tags/w1' })), notAllowed('ref'));
    assert.throws(() => principalOf(tags, githubClaims()), notAllowed('ref'));
    const dispatched = issuer(`${github}events = workflow_dispatch\n`);
    assert.throws(() => principalOf(dispatched, githubClaims()), notAllowed('event_name'));
  });

  it('give identities that hold no name that changes, and that no two issuers share', () => {
    const [one, two] = [issuer(github), issuer(gitlab)];
    const { identity } = principalOf(one, githubClaims());
    assert.equal(
      identity,
      principalOf(one, githubClaims({ repository: 'new/name', sub: 'repo:new/name:x', actor: 'y' })).identity,
    );
    assert.equal(namedIdentity([one, two], 'oidc:github:77/1001'), identity);
    assert.notEqual(namedIdentity([one, two], 'oidc:gitlab:77/1001'), identity);
    for (const name of ['alice', 'oidc:github', 'oidc:nowhere:1', 'github:77/1001', 'enrolled:alice'])
      assert.equal(namedIdentity([one, two], name), undefined, name);
  });
});
