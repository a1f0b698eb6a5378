/** The substrates that the demo can play on. One more is one more file, and a line here. */
import type { Ledger, Site, Venue } from './ledger.ts'

// Each is loaded only where it is played on: drivers are large.
const venues = {
  postgres: async (): Promise<Venue> => (await import('./postgres-ledger.ts')).postgres,
  redis: async (): Promise<Venue> => (await import('./redis-ledger.ts')).redis,
  etcd: async (): Promise<Venue> => (await import('./etcd-ledger.ts')).etcd,
  dynamodb: async (): Promise<Venue> => (await import('./dynamodb-ledger.ts')).dynamodb,
}

export type VenueName = keyof typeof venues

export const venueNames = Object.keys(venues) as readonly VenueName[]

/** Where the accounts are. */
export interface Place extends Site {
  readonly on: VenueName
}

export function isVenueName(text: string): text is VenueName {
  return Object.hasOwn(venues, text)
}

export async function venueNamed(name: VenueName): Promise<Venue> {
  return await venues[name]()
}

/** What a worker uses there. */
export async function ledgerAt(place: Place): Promise<Ledger> {
  return (await venueNamed(place.on)).officeAt(place)
}
