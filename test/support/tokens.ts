/**
 * How tokens begin: a JWT, where no other base64url stands before it (a thumbprint in some thousands has these three letters in it); tokens
 * of OpenBao and Vault.
 */
export const tokenPattern = /(?<![\w-])eyJ|hvs\.|s\.[A-Za-z0-9]{24}/;
