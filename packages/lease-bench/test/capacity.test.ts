import { expect } from 'chai'
import { isMatrix } from 'lease-servers'
import {
  fleetLoad,
  lookIntervalMs,
  readsBetweenRenewals,
  renewalGrainMs,
  renewalIntervalMs,
  type Fleet,
} from '#src/capacity/fleet-load.ts'
import { countHandOffs, FleetSimulation, type Counts, type SimulatedFleet } from '#src/capacity/simulation.ts'

/** Renewals of each lease that are counted. */
const INTERVALS = 3

/** Renewals are spread over a third of it: short, usual and long ones. */
const DURATIONS_MS = isMatrix()
  ? [1_000, 3_000, 10_000, 30_000, 60_000, 100_000, 180_000, 600_000, 3_600_000]
  : [3_000, 30_000, 180_000]

/** Processes do not know of each other: fewer show the same. */
const MANY = isMatrix() ? 1_000 : 5
const FEW = isMatrix() ? 10 : 2
const WAITERS = isMatrix() ? 300 : 30
const LOOKING = isMatrix() ? 50 : 20
const HAND_OFFS = isMatrix() ? 100 : 20

describe('bench: the load of a fleet', function () {
  it(`${MANY} processes renew twenty leases each as often as the formula says, and each sends one request for all`, async () => {
    const fleet = { ...one, processes: MANY, leases: 20 }
    const { counts, seconds } = await counted(fleet, INTERVALS * renewalIntervalMs(fleet.durationMs))
    const load = fleetLoad(fleet)
    expect(counts.operations.extend).to.equal(MANY * 20 * INTERVALS)
    expect(counts.operations.extend / seconds).to.be.closeTo(load.renewals, 1e-6)
    expect(counts.requests).to.equal(MANY * INTERVALS)
    expect(counts.requests / seconds).to.be.closeTo(load.fewestRequests, 1e-6)
    expect(counts).to.include({ readRequests: 0, messages: 0 })
  })

  it('a process that claims its leases one by one sends a request for each grain of the interval', async () => {
    const fleet = { ...one, processes: MANY, leases: 20, apartMs: 460 }
    const { counts, seconds } = await counted(fleet, INTERVALS * renewalIntervalMs(fleet.durationMs))
    expect(counts.operations.extend).to.equal(MANY * 20 * INTERVALS)
    expect(counts.requests).to.equal(MANY * 9 * INTERVALS)
    expect(counts.requests / seconds).to.be.closeTo(fleetLoad(fleet).mostRequests, 1e-6)
  })

  for (const durationMs of DURATIONS_MS) {
    it(`leases of ${durationMs / 1000} s are renewed and read as often as the formula says`, async () => {
      const fleet = { ...one, processes: FEW, leases: 3, durationMs }
      const { counts, seconds } = await counted(fleet, INTERVALS * renewalIntervalMs(durationMs))
      expect(counts.operations.extend).to.equal(FEW * 3 * INTERVALS)
      expect(counts.reads).to.equal(FEW * 3 * INTERVALS * readsBetweenRenewals(durationMs))
      expect(counts.reads / seconds).to.be.closeTo(fleetLoad(fleet).reads, 1e-6)
    })
  }

  it('a lease is renewed every third of its duration, or up to an eighth of that sooner', () => {
    for (let durationMs = 100; durationMs < 4_000_000; durationMs = Math.ceil(durationMs * 1.01)) {
      const third = durationMs / 3
      expect(renewalIntervalMs(durationMs))
        .to.be.above(third * (7 / 8))
        .and.at.most(third)
      expect(renewalGrainMs(durationMs)).to.be.at.most(Math.max(1, third / 8))
    }
  })

  for (const serverClock of [true, false]) {
    for (const durationMs of isMatrix() ? [10_000, 30_000, 600_000] : [30_000]) {
      const store = serverClock ? 'a clock' : 'no clock'
      it(`a process looks at leases of ${durationMs / 1000} s that it waits for as often as the formula says, on a store with ${store}`, async () => {
        const fleet = { ...one, processes: LOOKING, leases: 2, waits: 2, durationMs, serverClock }
        const { counts, seconds } = await counted(fleet, 5 * lookIntervalMs(fleet))
        // Each look is in step with the clock of its process, so one more or less may fall into the time that is counted.
        expect(counts.operations.claim).to.be.within(LOOKING * 2 * 4, LOOKING * 2 * 6)
        expect(counts.operations.claim / seconds / fleetLoad(fleet).looks).to.be.within(0.98, 1.02)
      })
    }
  }

  it(`each of ${WAITERS} processes that wait for one lease looks at it whenever the expiry that it knows has come`, async () => {
    const fleet = { ...one, processes: WAITERS + 1, waits: 1, waitForFirst: true }
    const { counts } = await counted(fleet, 2 * lookIntervalMs(fleet))
    expect(counts.operations.claim).to.equal(WAITERS * 2)
  })

  it('a hand-off is three requests and three messages, whether two processes wait or two hundred', async () => {
    for (const waiters of [2, 16, 200]) {
      const { requests, operations, messages, reads } = await countHandOffs(waiters, HAND_OFFS)
      const three = 3 * HAND_OFFS
      expect({ requests, reads, messages }).to.deep.equal({ requests: three, reads: 0, messages: three })
      expect(operations).to.include({ claim: 2 * HAND_OFFS, release: HAND_OFFS })
    }
  })
  it('a release that nobody waits for is one request and no message', async () => {
    const { requests, operations, messages } = await countHandOffs(0, 100)
    expect({ requests, messages }).to.deep.equal({ requests: 200, messages: 0 })
    expect(operations).to.include({ claim: 100, release: 100 })
  })
})

const one: SimulatedFleet = {
  processes: 1,
  leases: 1,
  durationMs: 30_000,
  waits: 0,
  serverClock: true,
  apartMs: 0,
} satisfies Fleet & SimulatedFleet

/** Once every lease has been renewed a few times. */
async function counted(
  fleet: SimulatedFleet,
  ms: number,
): Promise<{ readonly counts: Counts; readonly seconds: number }> {
  const simulation = await FleetSimulation.start(fleet)
  await simulation.countFor(2 * renewalIntervalMs(fleet.durationMs))
  if (fleet.waits > 0) await simulation.countFor(2 * lookIntervalMs(fleet))
  const counts = await simulation.countFor(ms)
  await simulation.stop()
  return { counts, seconds: ms / 1000 }
}
