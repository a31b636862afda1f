/** The messages of the contract as plain data: types only, no codec is loaded. */
export type * from './gen/types.ts'
