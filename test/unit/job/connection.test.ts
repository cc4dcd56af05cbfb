import assert from 'node:assert/strict';
import { formatAnswer, formatRequest, readAnswer, readRequest } from '../../../src/job/connection.ts';
import { makeTicket } from '../../../src/job/ticket.ts';
import { refused } from '../../support/refused.ts';

describe('what a connected job and its client exchange', () => {
  const ticket = makeTicket();
  const others = [
    { ...makeTicket(), scriptHalf: ticket.scriptHalf },
    { ...makeTicket(), fileHalf: ticket.fileHalf },
    { scriptHalf: ticket.fileHalf, fileHalf: ticket.scriptHalf },
  ];
  const key = 'age1key';
  const throws = (task: () => unknown, code: string): void => assert.throws(task, refused(code));

  it('comes through', () => {
    assert.equal(readRequest(ticket, '7', formatRequest(ticket, '7', key)), key);
    const sealed = Buffer.from([0, 1, 255]);
    assert.deepEqual(Buffer.from(readAnswer(ticket, '7', key, formatAnswer(ticket, '7', key, sealed))), sealed);
  });

  it('may be a refusal, which the job ends with', () => {
    const answer = formatAnswer(ticket, '7', key, { code: 'hpcs-forbidden', message: 'not granted', suggestion: 'ask' });
    throws(() => readAnswer(ticket, '7', key, answer), 'hpcs-forbidden');
  });

  it('take nothing that was not made with both halves, for this job and key', () => {
    const request = formatRequest(ticket, '7', key);
    const answer = formatAnswer(ticket, '7', key, Buffer.from('x'));
    for (const other of others) {
      throws(() => readRequest(other, '7', request), 'request-forged');
      throws(() => readAnswer(other, '7', key, answer), 'answer-forged');
    }
    throws(() => readRequest(ticket, '8', request), 'request-forged');
    throws(() => readAnswer(ticket, '8', key, answer), 'answer-forged');
    throws(() => readAnswer(ticket, '7', 'age1other', answer), 'answer-forged');
    for (const text of ['', '{', 'null', '{}', request.replace(key, 'age1other'), answer])
      throws(() => readRequest(ticket, '7', text), 'request-forged');
    const payload = JSON.stringify({ records: Buffer.from('y').toString('base64') });
    for (const text of ['', '[]', request, JSON.stringify({ ...(JSON.parse(answer) as object), payload })])
      throws(() => readAnswer(ticket, '7', key, text), 'answer-forged');
  });
});
