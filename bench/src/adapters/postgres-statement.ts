/**
 * The library's own statements, run by hand: what is left is what the library adds to them (one at a time), or what it
 * could save at best (batch). They are taken from the adapter as it sends them, so that they never fall behind it.
 */
import { randomUUID } from 'node:crypto'
import { PostgresSubstrate, type PostgresQuery } from 'lease-postgres'
import type { Pool } from 'pg'
import type { Adapter, Contestant } from '../bench.ts'
import { HAND_POOL, openPool } from './postgres-pool.ts'

/** One statement per claim, over a pool. */
export function postgresStatement({ prepare }: { readonly prepare: boolean }): Adapter {
  return {
    name: prepare ? 'statement-prepared' : 'statement',
    role: 'raw',
    about: `the library's statements by hand, one per claim${prepare ? ', prepared' : ''}`,
    async open({ url }): Promise<Contestant> {
      const hand = await byHand(url, prepare)
      return {
        one: { claim: (lease) => hand.claim([lease]), release: (lease) => hand.release([lease]) },
        close: () => hand.close(),
      }
    },
  }
}

/** One statement for the claims of all callers. */
export function postgresStatementBatch({ inFlight }: { readonly inFlight: number }): Adapter {
  return {
    name: inFlight === 1 ? 'statement-batch' : `statement-batch-${inFlight}`,
    role: 'raw',
    about: `the library's statements by hand, ${inFlight} batch${inFlight === 1 ? '' : 'es'} in flight`,
    async open({ url }): Promise<Contestant> {
      const hand = await byHand(url, true)
      return {
        many: { inFlight, claim: (leases) => hand.claim(leases), release: (leases) => hand.release(leases) },
        close: () => hand.close(),
      }
    },
  }
}

interface ByHand {
  claim(leases: readonly string[]): Promise<void>
  release(leases: readonly string[]): Promise<void>
  close(): Promise<void>
}

async function byHand(url: string, prepare: boolean): Promise<ByHand> {
  const pool = openPool(url, HAND_POOL)
  const namespace = randomUUID()
  const templates = await recorded(pool, namespace)
  const tokens = new Map<string, string>()
  let nonces = 0
  const send = async (kind: 'claim' | 'release', columns: readonly unknown[][]): Promise<{ token: string }[]> => {
    const { text, values = [] } = templates[kind]
    // namespace, one array per field, and what follows (the channel of announcements)
    const all = [namespace, ...columns, ...values.slice(1 + columns.length)]
    const query = prepare ? { text, values: all, name: `by_hand_${kind}` } : { text, values: all }
    const { rows } = await pool.query<{ n: number; done: boolean; token: string }>(query)
    if (rows.length !== columns[0]?.length || !rows.every(({ done }) => done)) throw new Error(`${kind}: not granted`)
    return rows.toSorted((a, b) => a.n - b.n)
  }
  return {
    async claim(leases) {
      const each = <T>(value: () => T): T[] => leases.map(value)
      const nonce = (): string => `n${nonces++}`
      const rows = await send('claim', [
        [...leases],
        each(() => 'bench'),
        each(nonce),
        each(() => 7_200_000),
        each(() => null),
      ])
      leases.forEach((lease, index) => tokens.set(lease, rows[index]?.token ?? ''))
    },
    async release(leases) {
      const held = leases.map((lease) => tokens.get(lease) ?? null)
      await send('release', [[...leases], leases.map(() => 'bench'), held, leases.map(() => null)])
    },
    close: () => pool.end(),
  }
}

/** What the adapter sends for a claim and for a release. */
async function recorded(pool: Pool, namespace: string): Promise<Record<'claim' | 'release', PostgresQuery>> {
  const sent: PostgresQuery[] = []
  const substrate = new PostgresSubstrate({
    namespace,
    listen: false,
    pool: {
      async connect() {
        const client = await pool.connect()
        return {
          query(query) {
            sent.push(query)
            return client.query(query)
          },
          release: (destroy) => client.release(destroy),
        }
      },
    },
  })
  const call = { signal: new AbortController().signal, timeoutMs: 5_000 }
  const same = { lease: 'recorded', holder: 'bench', nonce: 'n' } as const
  await substrate.apply([{ kind: 'claim', ...same, durationMs: 60_000, value: undefined, lapsed: undefined }], call)
  await substrate.apply([{ kind: 'release', ...same, fencingToken: undefined }], call)
  await substrate.close()
  const [claim, release] = sent
  if (claim === undefined || release === undefined || sent.length !== 2) {
    throw new Error(`a claim and a release took ${sent.length} statements, not two`)
  }
  return { claim, release }
}
