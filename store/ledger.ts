/** The durable record of what one host has promised: see `ledger/types.ts` for what it does. */
export { openLedger } from './ledger/ledger.ts'
export { checkLedger, repairLedger } from './ledger/fsck.ts'
export type { DocumentRecord, Ledger, LedgerOptions } from './ledger/types.ts'
