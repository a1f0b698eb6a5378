/**
 * Holders that hesitate longer than their leases, over many changes of ownership: a guarded write never comes after one of a later term.
 * Without a guard the same race shows such writes.
 */
import { GetItemCommand, TransactWriteItemsCommand, UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import { expect } from 'chai'
import { ErrNotHeld } from 'lease-core'
import type { Substrate } from 'lease-core/adapter'
import { DynamoGuard } from 'lease-dynamodb'
import { briefMs, claim, extend, readOne, release, settle, sleep, unique } from 'lease-scenes'
import { dynamodbTarget, enough, isMatrix, until } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

const target = dynamodbTarget()

const HOLDERS = 8
/** How often the leases change hands. */
const CHANGES = isMatrix() ? 1_000 : 30
/** How many writes are done, and how many are refused, at least. */
const EACH = 20
/** The longest that a holder hesitates: shorter or longer than its lease; without a guard longer than those after it. */
const PAUSE_MS = 60
const LONG_PAUSE_MS = 200

interface Course {
  grants: number
  written: number
  refused: number
}

interface Term {
  readonly substrate: Substrate
  readonly lease: string
  readonly holder: string
  readonly token: bigint
}

describe(`stale holders in a race, on ${target.name}`, function () {
  this.timeout(enough(300_000))
  let setting: Setting
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())

  /** The write of a token: it goes to the end of a list, so that the list has the order in which the store has done them. */
  const append = (lease: string, token: bigint) => ({
    TableName: setting.table,
    Key: { ns: { S: 'account' }, nm: { S: lease } },
    UpdateExpression: 'SET tokens = list_append(if_not_exists(tokens, :none), :more)',
    ExpressionAttributeValues: { ':none': { L: [] }, ':more': { L: [{ N: String(token) }] } },
  })

  async function guarded({ substrate, lease, holder, token }: Term): Promise<void> {
    const guard = new DynamoGuard()
    await substrate.trapdoor(lease, holder, token)(guard)
    await sleep(Math.random() * PAUSE_MS)
    const items = [...guard.checks, { Update: append(lease, token) }]
    await guard.transact(items, () => setting.client.send(new TransactWriteItemsCommand({ TransactItems: items })))
  }

  async function unguarded({ substrate, lease, holder, token }: Term): Promise<void> {
    const held = await readOne(substrate, lease)
    if (held?.holder !== holder || held.fencingToken !== token) throw new ErrNotHeld('not held')
    await sleep(Math.random() < 0.5 ? 0 : LONG_PAUSE_MS)
    await setting.client.send(new UpdateItemCommand(append(lease, token)))
  }

  /** Of the tokens in the order in which they were written, those that are below an earlier one. */
  async function regressions(leases: readonly string[]): Promise<number> {
    let count = 0
    for (const lease of leases) {
      const { TableName, Key } = append(lease, 0n)
      const { Item } = await setting.client.send(new GetItemCommand({ TableName, Key, ConsistentRead: true }))
      let highest = 0n
      for (const { N = '0' } of Item?.['tokens']?.L ?? []) {
        if (BigInt(N) < highest) count++
        else highest = BigInt(N)
      }
    }
    return count
  }

  /** Holders claim, hesitate and write until it is enough. Returns how many writes came after one of a later term. */
  async function race(
    write: (term: Term) => Promise<void>,
    isEnough: (course: Course, leases: readonly string[]) => boolean | Promise<boolean>,
  ): Promise<number> {
    const leases = Array.from({ length: 4 }, () => unique('lease'))
    const namespace = unique('ns')
    const course: Course = { grants: 0, written: 0, refused: 0 }
    const end = new AbortController()
    const work = async (holder: string): Promise<void> => {
      const substrate = setting.substrate({ namespace })
      while (!end.signal.aborted) {
        const lease = leases[Math.floor(Math.random() * leases.length)] as string
        const ms = briefMs()
        let verdict = await settle(substrate, claim(lease, holder, ms))
        if (verdict.outcome === 'refused') {
          const { version: lapsed, remainingMs = 0 } = verdict.holding ?? {}
          await sleep(remainingMs + 2)
          verdict = await settle(substrate, claim(lease, holder, ms, { lapsed }))
        }
        const { fencingToken: token } = verdict.holding ?? {}
        if (verdict.outcome !== 'granted' || token === undefined) continue
        course.grants++
        if (Math.random() < 0.3) await settle(substrate, extend(lease, holder, ms, { fencingToken: token }))
        try {
          await write({ substrate, lease, holder, token })
          course.written++
        } catch (error) {
          if (!(error instanceof ErrNotHeld)) throw error
          course.refused++
        }
        if (Math.random() < 0.3) await settle(substrate, release(lease, holder, { fencingToken: token }))
      }
    }
    const working = Promise.all(Array.from({ length: HOLDERS }, (_, index) => work(`holder-${index}`)))
    try {
      const isOverSoon = until('enough grants, writes and refusals', () => isEnough(course, leases), 50)
      await Promise.race([working, isOverSoon])
    } finally {
      end.abort()
    }
    await working
    return await regressions(leases)
  }

  it(`with a guard never commit after a later term has written, over ${CHANGES} changes of ownership`, async () => {
    const isEnough = ({ grants, written, refused }: Course): boolean =>
      grants >= CHANGES && written >= EACH && refused >= EACH
    expect(await race(guarded, isEnough)).to.equal(0)
  })

  it('do so without a guard: this race would show it', async () => {
    const found = await race(unguarded, async (_, leases) => (await regressions(leases)) > 0)
    expect(found).to.be.greaterThan(0)
  })
})
