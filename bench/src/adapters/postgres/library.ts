import { randomUUID } from 'node:crypto'
import { postgresClient } from 'lease-postgres'
import type { Adapter, Contestant, Place } from '../bench.ts'
import { libraryContestant } from './library.ts'
import { openPool } from './postgres-pool.ts'

interface Options {
  readonly prepare: boolean
}

/** As an application would set it up; `prepare` is its option. */
export function postgresLibrary(options: Options): Adapter {
  return {
    name: options.prepare ? 'ours-prepared' : 'ours',
    role: 'library',
    about: options.prepare ? 'the Manager, with `prepare`' : 'the Manager, default options',
    open: (place) => open(place, randomUUID(), options),
  }
}

async function open(place: Place, namespace: string, options: Options): Promise<Contestant> {
  const pool = openPool(place.url)
  return libraryContestant({
    connect: (clock) => postgresClient({ pool, namespace, clock, ...options }),
    atEnd: () => pool.end(),
    another: () => open(place, namespace, options),
  })
}
