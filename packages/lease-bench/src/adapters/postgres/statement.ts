/**
 * The library's own calls, sent by hand: what is left is what the library adds to them (one at a time), or what it
 * could save at best (batch). They are taken from the adapter as it sends them, so that they never fall behind it.
 */
import { randomUUID } from 'node:crypto'
import { PostgresSubstrate } from 'lease-postgres'
import type { Pool } from 'pg'
import type { Adapter } from '../../bench.ts'
import { batches, batchName, inBatches, LONG_MS, oneByOne, type ByHand } from '../by-hand.ts'
import { HAND_POOL, openPool } from './pool.ts'
import { record, type Kind } from '../recorded.ts'

/** One statement per claim, over a pool. */
export function postgresStatement({ prepare }: { readonly prepare: boolean }): Adapter {
  return {
    name: prepare ? 'statement-prepared' : 'statement',
    ...(prepare && { isDetail: true as const }),
    role: 'raw',
    about: `the library's calls by hand, one per claim${prepare ? ', prepared' : ''}`,
    can: ['one'],
    open: async ({ url }) => oneByOne(await byHand(url, prepare)),
  }
}

/** One statement for the claims of all callers. */
export function postgresStatementBatch({ inFlight }: { readonly inFlight: number }): Adapter {
  return {
    name: batchName('statement', inFlight),
    ...(inFlight > 1 && { isDetail: true as const }),
    role: 'raw',
    about: `the library's calls by hand, ${batches(inFlight)}`,
    can: ['many'],
    open: async ({ url }) => inBatches(await byHand(url, false), inFlight),
  }
}

interface Statement {
  readonly text: string
  readonly values: readonly unknown[]
}

interface Answer {
  readonly answer: string
}

/** What the functions answer, after the server's time: an array for each field. */
interface Answers {
  readonly n: readonly number[] | null
  /** Absent: all were. */
  readonly done?: readonly boolean[]
  readonly token?: readonly string[]
}

/** The parameters before those of the operations: namespace, when it was sent, and until when it may be executed. */
const SHARED = 3

async function byHand(url: string, prepare: boolean): Promise<ByHand> {
  const pool = openPool(url, HAND_POOL)
  const namespace = randomUUID()
  const templates = await record<Statement>((sent) => recording(pool, namespace, sent), LONG_MS)
  const tokens = new Map<string, string>()
  const nonceOf = new Map<string, string>()
  let nonces = 0
  /** The tokens by the numbers of the operations, from 1. */
  const send = async (kind: Kind, columns: readonly unknown[][]): Promise<ReadonlyMap<number, string>> => {
    const { text, values } = templates[kind].request
    // one array per field, and what follows (the channel of announcements)
    const arrays = columns.map((column) => `{${JSON.stringify(column).slice(1, -1)}}`)
    const all = [namespace, ...values.slice(1, SHARED), ...arrays, ...values.slice(SHARED + columns.length)]
    const { rows } = await (prepare
      ? pool.query<Answer>({ text, values: all, name: `by_hand_${kind}` })
      : pool.query<Answer>(text, all))
    const granted = new Map<number, string>()
    const [, ...answers] = JSON.parse(rows[0]?.answer ?? '[]') as [number, ...Answers[]]
    for (const { n, done, token = [] } of answers) {
      for (const [index, number] of (n ?? []).entries()) {
        if (done?.[index] !== false) granted.set(number, token[index] ?? '')
      }
    }
    if (granted.size !== columns[0]?.length) throw new Error(`${kind}: not granted`)
    return granted
  }
  const nothing = (leases: readonly string[]): string[] => leases.map(() => '')
  const holders = (leases: readonly string[]): string[] => leases.map(() => 'bench')
  const durations = (leases: readonly string[]): number[] => leases.map(() => LONG_MS)
  const silently = (leases: readonly string[]): boolean[] => leases.map(() => false)
  const held = (leases: readonly string[]): string[] => leases.map((lease) => tokens.get(lease) ?? '')
  return {
    async claim(leases) {
      const fresh = leases.map(() => `n${nonces++}`)
      const fields = [[...leases], holders(leases), fresh, durations(leases), nothing(leases), silently(leases)]
      const granted = await send('claim', fields)
      for (const [index, lease] of leases.entries()) {
        tokens.set(lease, granted.get(index + 1) ?? '')
        nonceOf.set(lease, fresh[index] ?? '')
      }
    },
    async extend(leases) {
      await send('extend', [[...leases], holders(leases), held(leases), durations(leases)])
    },
    async release(leases) {
      const claimed = leases.map((lease) => `=${nonceOf.get(lease) ?? ''}`) // the sign of a value that is there
      await send('release', [[...leases], holders(leases), held(leases), claimed])
    },
    close: () => pool.end(),
  }
}

/** An adapter that puts the statements it sends into the list. */
function recording(pool: Pool, namespace: string, sent: Statement[]): PostgresSubstrate {
  return new PostgresSubstrate({
    namespace,
    listen: false,
    pool: {
      async connect() {
        const client = await pool.connect()
        return {
          query(text, values = []) {
            sent.push({ text, values })
            return client.query(text, values)
          },
          release: (destroy) => client.release(destroy),
          getTransactionStatus: () => client.getTransactionStatus(),
        }
      },
    },
  })
}
