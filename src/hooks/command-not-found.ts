import type { Hook } from '@oclif/core';
import { HpcsError } from '../errors.ts';
import { nearest } from '../nearest.ts';

/** Called by oclif for a word that is no command. @throws HpcsError `usage` with the command it was most likely meant to be */
const commandNotFound: Hook.CommandNotFound = async ({ id, config }) => {
  const word = id.replaceAll(':', ' ');
  if (word.startsWith('-')) {
    throw new HpcsError('usage', 'command-missing', `${word} stands where a command should`, {
      suggestion: `write flags behind the command; ${config.bin} --help lists the commands`,
    });
  }
  const known = config.commands.filter((command) => !command.hidden).map((command) => command.id.replaceAll(':', ' '));
  const meant = nearest(word, known) ?? known.find((command) => command.endsWith(` ${word}`));
  const [topic = ''] = word.split(' ');
  const list = known.some((command) => command.startsWith(`${topic} `))
    ? `${config.bin} ${topic} --help`
    : `${config.bin} --help`;
  throw new HpcsError('usage', 'command-unknown', `${word} is not a command`, {
    suggestion: meant === undefined ? `${list} lists the commands` : `did you mean: ${config.bin} ${meant}`,
  });
};

export default commandNotFound;
