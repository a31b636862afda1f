import type { InvitationRecord, InvitationStore, Issued, IssuedStore } from '../protocol/mesh/join/types.ts'
import { migrated, type Migrations, RECORD_VERSION } from './ledger/migrations.ts'
import type { Store } from './store.ts'

const INVITATIONS = 'invitation/'
const ISSUED = 'issued/'

interface Records<T> { list (): Promise<T[]>, put (value: T): Promise<void>, delete (key: string): Promise<void> }

/** Records under a prefix; every write is on the disk when it resolves. */
function recordsOf<T> (store: Store, prefix: string, keyOf: (value: T) => string, migrations: Migrations): Records<T> {
  const kind = prefix.slice(0, -1)
  return {
    list: async () => {
      const all: T[] = []
      for await (const entry of store.iterate(prefix)) all.push(migrated(entry, kind, migrations) as T)
      return all
    },
    put: async value => { await store.put(prefix + keyOf(value), value, { sync: true, version: RECORD_VERSION }) },
    delete: async key => { await store.delete(prefix + key, { sync: true }) }
  }
}

/** Invitations in the store of an agent or coordinator. They hold secrets, as the store's folder does: mode 0700. */
export function invitationStore (store: Store, migrations: Migrations = {}): InvitationStore {
  return recordsOf<InvitationRecord>(store, INVITATIONS, ({ id }) => id, migrations)
}

/** What an authority has certified, by the PeerId of the subject. */
export function issuedStore (store: Store, migrations: Migrations = {}): IssuedStore {
  return recordsOf<Issued>(store, ISSUED, ({ subject }) => subject, migrations)
}
