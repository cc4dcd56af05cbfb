import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { makeTicket, ticketHalf, ticketHash } from '../../../src/job/ticket.ts';
import { Secret } from '../../../src/secret.ts';

describe('a ticket', () => {
  it('has two halves of 128 bits that nothing shows by accident', () => {
    const ticket = makeTicket();
    for (const half of [ticket.scriptHalf, ticket.fileHalf]) {
      assert.match(half.reveal(), ticketHalf);
      assert.ok(!`${inspect(ticket)}${JSON.stringify(ticket)}`.includes(half.reveal()));
    }
    assert.notEqual(ticket.scriptHalf.reveal(), ticket.fileHalf.reveal());
    assert.notEqual(makeTicket().scriptHalf.reveal(), ticket.scriptHalf.reveal());
  });

  it('is known by a hash that depends on both halves and their order', () => {
    const [a, b, c] = ['a', 'b', 'c'].map((digit) => new Secret(digit.repeat(32))) as [Secret, Secret, Secret];
    const hashes = [
      [a, b],
      [b, a],
      [a, c],
      [c, b],
    ].map(([scriptHalf = a, fileHalf = a]) => ticketHash({ scriptHalf, fileHalf }));
    assert.equal(new Set(hashes).size, 4);
    // printf 'hpcs job ticket 1\naaa…bbb…' | sha256sum
    assert.equal(hashes[0], '011185a6769d7456d01d8598315bebf734aec72d04ef2e625eb08f61578e9685');
  });
});
