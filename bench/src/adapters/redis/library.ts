import { randomUUID } from 'node:crypto'
import { redisClient } from 'lease-redis'
import type { Adapter, Contestant, Place } from '../bench.ts'
import { libraryContestant } from './library.ts'
import { openRedis } from './redis-connection.ts'

/** As an application would set it up. */
export const redisLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  open: (place) => open(place, randomUUID()),
}

async function open(place: Place, namespace: string): Promise<Contestant> {
  const redis = await openRedis(place.url)
  return libraryContestant({
    connect: (clock) => redisClient({ redis, namespace, clock }),
    atEnd: async () => redis.disconnect(),
    another: () => open(place, namespace),
  })
}
