/**
 * The kit on the machine's clocks: clauses run side by side, pass on a store that stalls, and are still red for a defect.
 * The clauses that the kit states otherwise on a real clock than on a test clock each have a defect here, but for the order of
 * those who wait: on a busy machine a wrong order sometimes looks right by chance. The test clock finds that defect.
 */
import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import type { Client } from '#src/client.ts'
import { ClauseQueue } from '#src/conformance/clause-queue.ts'
import { conformance } from '#src/conformance/index.ts'
import { Collector, type Outcome } from './conformance.collector.ts'
import { DEFECTS, type Defect } from './conformance.defects.ts'
import { stallingHarnessOf } from './conformance.harness.ts'

const OUTLIVES = 'manager: a hold outlives its duration many times over in one term, and its release frees the lease'
const RECOVERS = 'manager: renewals that fail and recover before the deadline keep the hold'
const REVOKED = 'manager: a holder whose lease was revoked learns it, and does not claim it again'
const LONGER = 'extension: an extended lease outlives its first expiry'
const PINNED = 'pins: a pinned lease past its expiry is not granted to another'
const REPLAYED = 'faults: a lost reply: the retried claim is granted in the same term'
const UNPINNED =
  'late packets: a pin that was sent again does not come back when its first packet comes after the unpin'
const HANGING = 'bad input: bad input is answered even while the store is not: nothing was sent'

/** One test runs what a runner otherwise allows a minute for each clause. */
const WHOLE_KIT_MS = 300_000

/**
 * A stall may undo what the defect did, by chance: of an unpin that was sent twice, the first packet comes last and removes the pin
 * that should not have come back. Not so many times in a row.
 */
const ATTEMPTS = 5

const RED: Readonly<Record<string, readonly string[]>> = {
  'an extension is acknowledged and not done': [LONGER, OUTLIVES, RECOVERS],
  'an extension creates the lease if it is vacant': [REVOKED],
  'a claim ignores pins': [PINNED],
  'a claim is not replayed by its nonce': [REPLAYED],
  'a pin comes back after its unpin, and there is no clock': [UNPINNED],
  'the client asks the store before it looks at its input': [HANGING],
}

describe('the conformance kit on a real clock', () => {
  it('is green on a sound store that stalls', async () => {
    assert.deepEqual(reds(await run({})), [])
  }).timeout(WHOLE_KIT_MS)

  const inMatrix = process.env['LEASE_SUITE'] === 'matrix' ? it : it.skip
  inMatrix('is green on a sound store without a clock that stalls', async () => {
    assert.deepEqual(reds(await run({ serverClock: false })), [])
  }).timeout(WHOLE_KIT_MS)

  it('is red for a defect', async () => {
    const runs = Object.entries(RED).map(async ([name, titles]) => {
      const defect = DEFECTS[name]
      assert(defect !== undefined, name)
      let missing = titles
      for (let attempts = 1; missing.length > 0 && attempts <= ATTEMPTS; attempts++) {
        const red = reds(await run(defect, missing)).map(({ title }) => title)
        missing = missing.filter((title) => !red.includes(title))
      }
      return { name, missing }
    })
    const missed = (await Promise.all(runs)).filter(({ missing }) => missing.length > 0)
    assert.deepEqual(missed, [])
  }).timeout(WHOLE_KIT_MS)
})

describe('ClauseQueue', () => {
  it('runs clauses side by side once the first test runs, and each test has the outcome of its own', async () => {
    const { queue, running } = newQueue()
    const gate = newGate()
    const first = queue.add(running(gate.opened), { alone: false })
    const second = queue.add(
      running(async () => {
        gate.open()
        throw new Error('second')
      }),
      { alone: false },
    )
    await first() // needs the second to run meanwhile
    await assert.rejects(second(), /second/)
    assert.equal(running.most, 2)
  })

  it('runs a clause alone when all others have ended', async () => {
    const { queue, running } = newQueue()
    const clauses = Array.from({ length: 20 }, () => queue.add(running(pause), { alone: false }))
    const seen: number[] = []
    const alone = queue.add(async () => void seen.push(running.now), { alone: true })
    await Promise.all([clauses[0]?.(), alone()])
    assert.deepEqual(seen, [0])
    assert.equal(running.ended, 20)
    await Promise.all(clauses.map((clause) => clause()))
  })

  it('runs clauses one after the other when they are not to run together', async () => {
    const { queue, running } = newQueue({ together: false })
    const clauses = Array.from({ length: 5 }, () => queue.add(running(pause), { alone: false }))
    await Promise.all(clauses.map((clause) => clause()))
    assert.equal(running.most, 1)
  })

  it('never lets two clauses that run at once share a client', async () => {
    const { queue } = newQueue()
    const busy = new Set<Client>()
    const clauses = Array.from({ length: 30 }, () =>
      queue.add(
        async (pair) => {
          for (const client of pair) assert(!busy.has(client), 'two clauses share a client')
          for (const client of pair) busy.add(client)
          await pause()
          for (const client of pair) busy.delete(client)
        },
        { alone: false },
      ),
    )
    await Promise.all(clauses.map((clause) => clause()))
  })

  it('leaves no rejection unheard when a clause fails whose test does not run', async () => {
    const { queue, running } = newQueue()
    const first = queue.add(running(pause), { alone: false })
    queue.add(() => Promise.reject(new Error('unheard')), { alone: false })
    await first()
    await queue.close() // mocha fails the test if a rejection goes unheard
  })

  it('closes its clients when the last clause has ended', async () => {
    const { queue, running, closed } = newQueue()
    const gate = newGate()
    await queue.open()
    const first = queue.add(running(pause), { alone: false })
    queue.add(running(gate.opened), { alone: false })
    await first()
    const closing = queue.close()
    await pause()
    assert.equal(closed(), 0)
    gate.open()
    await closing
    assert.equal(closed(), 4)
  })

  it('fails each clause for which no client can be opened', async () => {
    const queue = new ClauseQueue(() => Promise.reject(new Error('no server')), { together: true })
    const clauses = Array.from({ length: 10 }, () => queue.add(pause, { alone: false }))
    for (const clause of clauses) await assert.rejects(clause(), /no server/)
    await queue.close()
  })
})

async function run(defect: Defect, titles?: readonly string[]): Promise<readonly Outcome[]> {
  const collector = new Collector()
  conformance(collector, stallingHarnessOf(defect))
  return collector.run(titles)
}

function reds(outcomes: readonly Outcome[]): readonly { readonly title: string; readonly error: string }[] {
  const red = outcomes.filter(({ outcome }) => outcome === 'failed')
  return red.map(({ title, error }) => ({ title, error: String(error) }))
}

/** A queue over clients that only close, and a wrapper that counts which clauses run. */
function newQueue({ together = true }: { readonly together?: boolean } = {}) {
  let closes = 0
  const openClient = async (): Promise<Client> => ({ close: async () => void closes++ }) as unknown as Client
  const queue = new ClauseQueue(openClient, { together })
  const running = Object.assign(
    (body: () => Promise<void>) => async (): Promise<void> => {
      running.most = Math.max(running.most, ++running.now)
      await body().finally(() => running.now--)
      running.ended++
    },
    { now: 0, most: 0, ended: 0 },
  )
  return { queue, running, closed: () => closes }
}

function newGate(): { readonly open: () => void; readonly opened: () => Promise<void> } {
  let open = (): void => {}
  const promise = new Promise<void>((resolve) => (open = resolve))
  return { open: () => open(), opened: () => promise }
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 5))
}
