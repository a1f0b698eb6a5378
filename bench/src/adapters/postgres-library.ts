import { randomUUID } from 'node:crypto'
import { postgresClient } from 'lease-postgres'
import type { Adapter } from '../bench.ts'
import { libraryContestant } from './library.ts'
import { openPool } from './postgres-pool.ts'

/** As an application would set it up; `prepare` is its option. */
export function postgresLibrary({ prepare }: { readonly prepare: boolean }): Adapter {
  return {
    name: prepare ? 'ours-prepared' : 'ours',
    role: 'library',
    about: prepare ? 'the Manager, with `prepare`' : 'the Manager, default options',
    async open({ url }) {
      const pool = openPool(url)
      return libraryContestant(
        (clock) => postgresClient({ pool, namespace: randomUUID(), prepare, clock }),
        () => pool.end(),
      )
    },
  }
}
