/**
 * The kit bites: run against a sound store every clause is green, and run against stores and clients with one defect
 * each exactly those clauses are red that `conformance.broken.json` lists, each for the reason written there; of the
 * manager's suite at least those that the defect names. `test:matrix` runs all clauses against each defect, the test command the first
 * few of those that are to be red.
 *
 * After a change of the kit, `UPDATE_EXPECTED=1` writes that file anew: read its difference before you commit it.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { after, describe, it } from 'mocha'
import { conformance } from '#src/conformance/index.ts'
import { Collector, type Outcome } from './conformance.collector.ts'
import { DEFECTS, type Defect } from './conformance.defects.ts'
import { harnessOf } from './conformance.harness.ts'
import { Random } from 'lease-simulation'

/** For each defect the clauses that are red, and why. */
type Expected = Record<string, Record<string, string>>

const MANAGER = 'manager: '
/** Of the clauses that are red for a defect, so many are run by the test command. */
const FEW = 3
const file = new URL('../test/conformance.broken.json', import.meta.url)
const updating = process.env['UPDATE_EXPECTED'] !== undefined
const tryingAll = updating || process.env['LEASE_SUITE'] === 'matrix'
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

  it('is green on a sound store without a clock', async () => {
    assert.deepEqual(reds(await run({ serverClock: false })), {})
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
        'the store keeps no queues of those who wait',
        'the store keeps no counted leases',
        'the store tells everyone of everything',
        'the harness has no openFaulty',
        'its requests cannot be copied above the adapter',
        'no key of the substrate needs a transaction',
        'the harness has no restart',
        'the substrate has no trapdoor',
      ]),
    )
  })

  for (const [name, defect] of Object.entries(DEFECTS)) {
    it(`is red when ${name}`, async () => {
      const isWhole = tryingAll || defect.remembers === true
      const red = Object.entries(expected[name] ?? {}).slice(0, isWhole ? undefined : FEW)
      const manager = (defect.manager ?? []).map((title) => MANAGER + title).slice(0, isWhole ? undefined : FEW)
      const all = reds(await run(defect, isWhole ? undefined : new Set([...red.map(([title]) => title), ...manager])))
      const found = Object.fromEntries(Object.entries(all).filter(([title]) => !title.startsWith(MANAGER)))
      if (updating) expected[name] = found
      assert.notDeepEqual(found, {}, 'the defect goes unnoticed')
      assert.deepEqual(found, updating ? found : Object.fromEntries(red))
      for (const title of manager) assert(title in all, `not red: ${title}`)
    })
  }

  it('has been tried with every defect that is expected', () => {
    assert.deepEqual(Object.keys(expected).toSorted(), Object.keys(DEFECTS).toSorted())
  })

  after(() => {
    if (updating) writeFileSync(file, `${JSON.stringify(expected, undefined, 2)}\n`)
  })
})

/**
 * With the same pauses each time: their sum decides which of two bounds a call meets first. Nobody looks at the stacks of errors.
 *
 * @param clauses the titles of those to run. @default all
 */
async function run(defect: Defect, clauses?: ReadonlySet<string>): Promise<readonly Outcome[]> {
  const { random } = Math
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    const collector = new Collector(() => {
      const chance = new Random(1)
      Math.random = () => chance.next()
    })
    conformance(collector, harnessOf(defect))
    const { titles } = collector
    return await collector.run(clauses === undefined ? titles : titles.filter((title) => clauses.has(title)))
  } finally {
    Math.random = random
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** The red clauses with their reasons, in which numbers are # and nonces are gone, so that they are the same each time. */
function reds(outcomes: readonly Outcome[]): Record<string, string> {
  const red = outcomes.filter(({ outcome }) => outcome === 'failed')
  return Object.fromEntries(red.map(({ title, error }) => [title, reasonOf(error)]))
}

function reasonOf(error: unknown): string {
  const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  const text = line.replaceAll(/nonce: '[^']*'/g, "nonce: '…'").replaceAll(/\d+(\.\d+)?/g, '#')
  return text.length > 120 ? `${text.slice(0, 119)}…` : text
}
