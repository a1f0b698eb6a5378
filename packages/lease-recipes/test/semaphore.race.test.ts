import { expect } from 'chai'
import { Manager } from 'lease-core'
import { enough } from 'lease-servers'
import { Semaphores } from '#src/semaphore.ts'
import { conflicts, pass, racecourses, Racers, type OpenRacecourse, type Racer, type Window } from './racecourse.ts'
import { openClient } from './racer.ts'
import { unique } from './stores.ts'

const GRANTS = enough(600)
const LIMIT = 3
const LEASE_MS = 400
const PROCESSES = 3
/** A process is expensive to start, so few are killed; in between, one after another is stopped. */
const KILLS = 2
const STOPS = 6

for (const course of racecourses()) {
  describe(`Semaphore, a race of processes, on ${course.name}`, () => {
    let opened: OpenRacecourse
    let racers: Racers

    before(async () => {
      opened = await course.open(unique('race'))
      racers = new Racers('semaphore.racer.ts', { ...opened.entry, leaseMs: LEASE_MS })
    })
    after(async () => {
      await racers.kill()
      await opened.close()
    })

    async function create(): Promise<void> {
      const visit = openClient(opened.entry)
      const manager = new Manager({ client: visit.client })
      await new Semaphores({ manager }).create('race', LIMIT)
      await manager.stop()
      await visit.close()
    }

    /** It stands still for longer than some permits last. */
    async function stop(racer: Racer): Promise<void> {
      racer.pause()
      await pass(Math.random() * 2 * LEASE_MS)
      racer.resume()
    }

    it(`DSM-5: never more than n hold a permit, in ${GRANTS} grants to processes that are stopped and killed`, async function () {
      this.timeout(enough(300_000)) // processes are slow to start on a busy machine
      await create()
      for (let index = 0; index < PROCESSES; index++) racers.start()
      await racers.until('grant', () => racers.windows().length > 0)
      for (let kills = 0, stops = 0, grants = 0; grants < GRANTS || kills < KILLS || stops < STOPS;) {
        if (racers.crashes.length > 0) break
        await pass(Math.random() * LEASE_MS)
        const { running } = racers
        const racer = running[Math.floor(Math.random() * running.length)] as Racer
        grants = racers.windows().length
        if (kills < KILLS && grants >= ((kills + 0.5) * GRANTS) / KILLS) {
          kills++
          racer.kill()
          racers.start()
        } else {
          stops++
          await stop(racer)
        }
      }
      expect(racers.crashes).to.deep.equal([])
      await racers.kill()
      const windows = racers.windows()
      expect(windows.length).to.be.at.least(GRANTS)
      expect(tooMany(windows)).to.deep.equal([])
      expect(unordered(windows)).to.deep.equal([])
    })
  })
}

/** Instants at which more than n relied on a permit. */
function tooMany(windows: readonly Window[]): string[] {
  const edges = windows.flatMap(({ fromMs, toMs }) => [
    { atMs: fromMs, change: 1 },
    { atMs: toMs, change: -1 },
  ])
  edges.sort((a, b) => a.atMs - b.atMs || a.change - b.change)
  const wrong: string[] = []
  let active = 0
  for (const { atMs, change } of edges) {
    active += change
    if (active > LIMIT) wrong.push(`${active} at ${atMs}`)
  }
  return wrong
}

/** Grants of one slot that overlap, or whose fencing token is not higher than that of the one before. */
function unordered(windows: readonly Window[]): string[] {
  const slots = new Map<string, Window[]>()
  for (const window of windows) {
    const [slot = '', token = ''] = window.token.split(' ')
    slots.set(slot, [...(slots.get(slot) ?? []), { ...window, token }])
  }
  return [...slots].flatMap(([slot, ofSlot]) => conflicts(ofSlot).map((conflict) => `${slot}: ${conflict}`))
}
