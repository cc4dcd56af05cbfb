import assert from 'node:assert/strict';
import { ciSource } from '../../../src/identity/ci.ts';
import { chooseIssuer, isOver } from '../../../src/identity/login.ts';
import { refused } from '../../support/refused.ts';

const people = { name: 'people', kind: 'people', issuer: 'https://idp.example.org', audience: 'hpcs', scope: 'openid' };
const github = { ...people, name: 'github', kind: 'github', issuer: 'https://token.example.org' };

describe('logging in', () => {
  it('goes to the one issuer of people, or the one that is configured', () => {
    const none = { issuer: undefined, 'client-id': undefined };
    assert.equal(chooseIssuer([github, people], none), people);
    const second = { ...people, name: 'second', issuer: 'https://second.example.org' };
    assert.throws(() => chooseIssuer([people, second], none), refused('which-issuer', /idp\.example\.org, https:\/\/second/));
    assert.equal(chooseIssuer([people, second], { ...none, issuer: 'second' }), second);
    assert.equal(chooseIssuer([people, second], { ...none, issuer: people.issuer }), people);
    assert.throws(() => chooseIssuer([github], none), refused('no-issuer'));
  });

  it('believes no server that names another issuer or program than the configuration', () => {
    const evil = { ...people, issuer: 'https://evil.example.org' };
    assert.throws(
      () => chooseIssuer([evil], { issuer: people.issuer, 'client-id': undefined }),
      refused('no-issuer', /idp\.example/),
    );
    const program = { issuer: undefined, 'client-id': 'hpcs' };
    assert.throws(
      () => chooseIssuer([{ ...people, audience: 'bank' }], program),
      refused('other-client-id', /bank, not for hpcs/),
    );
    assert.equal(chooseIssuer([people], program), people);
  });

  it('finds the token of a CI job: the one meant for it first', () => {
    assert.equal(ciSource({}), undefined);
    assert.equal(ciSource({ ACTIONS_ID_TOKEN_REQUEST_URL: 'https://x' }), undefined);
    const runner = { ACTIONS_ID_TOKEN_REQUEST_URL: 'https://x', ACTIONS_ID_TOKEN_REQUEST_TOKEN: 't' };
    assert.equal(ciSource(runner)?.kind, 'github');
    assert.equal(ciSource({ ...runner, HPCS_ID_TOKEN_FILE: '/f' })?.kind, 'file');
    assert.equal(ciSource({ ...runner, HPCS_ID_TOKEN: 'x' })?.kind, 'given');
    assert.doesNotMatch(JSON.stringify(ciSource({ HPCS_ID_TOKEN: 'secret' })), /secret/);
  });

  it('ends when the session does', () => {
    assert.equal(isOver({}), false);
    assert.equal(isOver({ expires: new Date(Date.now() - 1).toISOString() }), true);
    const soon = { expires: new Date(Date.now() + 30_000).toISOString() };
    assert.equal(isOver(soon), false);
    assert.equal(isOver(soon, 60_000), true);
  });
});
