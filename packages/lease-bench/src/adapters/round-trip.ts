import type { Adapter } from '../bench.ts'

/** What the driver and the server take at least: the way there and back. */
export const roundTrip: Adapter = {
  name: 'round-trip',
  role: 'raw',
  about: 'the least that the same driver can ask, one after the other',
  can: ['roundTrip'],
  open: async (ground) => ({ roundTrip: () => ground.roundTrip(), close: async () => {} }),
}
