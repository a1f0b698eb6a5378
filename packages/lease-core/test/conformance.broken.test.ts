/**
 * The kit bites: run against a sound store every clause is green, and run against stores and clients with one defect
 * each exactly those clauses are red that `conformance.broken.json` lists, each for the reason written there; of the
 * manager's chapter at least those that the defect names.
 *
 * After a change of the kit, `UPDATE_EXPECTED=1` writes that file anew: read its difference before you commit it.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { after, describe, it } from 'mocha'
import { conformance, faultsOf, type Harness } from '#src/conformance/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock } from '#src/testing/index.ts'
import { BreakableStore, BreakableSubstrate, WriteKey } from './conformance.breakable-store.ts'
import { Collector, type Outcome } from './conformance.collector.ts'
import { DEFECTS, type Defect } from './conformance.defects.ts'

/** For each defect the clauses that are red, and why. */
type Expected = Record<string, Record<string, string>>

const MANAGER = 'manager: '
const file = new URL('./conformance.broken.json', import.meta.url)
const updating = process.env['UPDATE_EXPECTED'] !== undefined
const expected = updating ? {} : (JSON.parse(readFileSync(file, 'utf8')) as Expected)

describe('the conformance kit', () => {
  it('is green on a sound store, with nothing skipped but what only a store without a trapdoor has', async () => {
    const outcomes = await run({})
    assert.deepEqual(reds(outcomes), {})
    assert.deepEqual(
      outcomes.filter(({ outcome }) => outcome === 'skipped').map(({ title }) => title),
      ['trapdoor: a substrate without a trapdoor understands no key (skipped: the substrate has a trapdoor)'],
    )
  })

  it('gives every clause a title of its own', async () => {
    const titles = new Collector()
    conformance(titles, harnessOf({}))
    assert.equal(new Set(titles.titles).size, titles.titles.length)
  })

  it('says why a clause was skipped', async () => {
    const { guard, openFaulty, restart, ...bare } = harnessOf({})
    assert(guard !== undefined && openFaulty !== undefined && restart !== undefined)
    const collector = new Collector()
    const supports = { notifications: false, serverClock: false }
    conformance(collector, { ...bare, supports })
    const skipped = collector.titles.filter((title) => title.includes('(skipped: '))
    const reasons = new Set(skipped.map((title) => /\(skipped: (.*)\)$/.exec(title)?.[1]))
    assert.deepEqual(
      reasons,
      new Set([
        'the substrate has no notifications',
        'the store has no clock of its own',
        'the client keeps no lines of those who wait',
        'the harness has no openFaulty',
        'the harness has no restart',
        'the substrate has no trapdoor',
      ]),
    )
  })

  for (const [name, defect] of Object.entries(DEFECTS)) {
    it(`is red when ${name}`, async () => {
      const all = reds(await run(defect))
      const found = Object.fromEntries(Object.entries(all).filter(([title]) => !title.startsWith(MANAGER)))
      if (updating) expected[name] = found
      assert.notDeepEqual(found, {}, 'the defect goes unnoticed')
      assert.deepEqual(found, expected[name])
      for (const title of defect.manager ?? []) assert(`${MANAGER}${title}` in all, `not red: ${title}`)
    }).timeout(30_000)
  }

  it('has been tried with every defect that is expected', () => {
    assert.deepEqual(Object.keys(expected).toSorted(), Object.keys(DEFECTS).toSorted())
  })

  after(() => {
    if (updating) writeFileSync(file, `${JSON.stringify(expected, undefined, 2)}\n`)
  })
})

async function run(defect: Defect): Promise<readonly Outcome[]> {
  const collector = new Collector()
  conformance(collector, harnessOf(defect))
  return collector.run()
}

/** The red clauses with their reasons, in which numbers are # so that they do not depend on jitter. */
function reds(outcomes: readonly Outcome[]): Record<string, string> {
  const red = outcomes.filter(({ outcome }) => outcome === 'failed')
  return Object.fromEntries(red.map(({ title, error }) => [title, reasonOf(error)]))
}

function reasonOf(error: unknown): string {
  const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  const text = line.replaceAll(/\d+(\.\d+)?/g, '#')
  return text.length > 120 ? `${text.slice(0, 119)}…` : text
}

function harnessOf({ store: Store = BreakableStore, client: wrap = (client) => client }: Defect): Harness {
  const clock = new TestClock()
  const stores = new Map<string, BreakableStore>()
  const written: string[] = []
  const substrateOf = (namespace: string): BreakableSubstrate => {
    const store = stores.get(namespace) ?? new Store(clock, written)
    stores.set(namespace, store)
    return new BreakableSubstrate(store)
  }
  const requestTimeout = 200
  return {
    name: 'a breakable store',
    supports: { notifications: true, lines: true, serverClock: true, exactClock: true },
    clock,
    unitMs: 100,
    thousands: 250, // batches enough; there are a hundred defects to notice
    sleep: (delayMs) => clock.advance(delayMs),
    open: async (namespace) => wrap(new SubstrateClient({ substrate: substrateOf(namespace), clock, requestTimeout })),
    openFaulty: async (namespace) => {
      const substrate = new FaultySubstrate(substrateOf(namespace), { clock })
      return { client: wrap(new SubstrateClient({ substrate, clock, requestTimeout })), faults: faultsOf(substrate) }
    },
    restart: async () => {
      for (const store of stores.values()) store.restart()
    },
    guard: {
      write: (trapdoor, text) => trapdoor(new WriteKey(text)),
      written: async () => written,
    },
  }
}
