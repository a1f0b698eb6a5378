import { expect } from 'chai'
import { Manager } from 'lease-core'
import { enough } from 'lease-servers'
import { conflicts, pass, racecourses, Racers, Stalls, type OpenRacecourse, type Racer } from './racecourse.ts'
import { nowMs, openClient, type OpenClient, type Report } from './racer.ts'
import { unique } from './stores.ts'

const TTL_MS = 1500
const PROCESSES = 3
const ROUND = ['resign', 'kill', 'pause', 'resign', 'kill', 'pause', 'resign'] as const
const TROUBLES = Array.from({ length: enough(1) }, () => ROUND).flat()

for (const course of racecourses()) {
  describe(`Election, a race of processes, on ${course.name}`, () => {
    let opened: OpenRacecourse
    let judge: OpenClient
    let manager: Manager
    let racers: Racers
    let stalls: Stalls

    before(async () => {
      opened = await course.open(unique('race'))
      judge = openClient(opened.entry)
      manager = new Manager({ client: judge.client })
      racers = new Racers('election.racer.ts', { ...opened.entry, leaseMs: TTL_MS })
      stalls = new Stalls(manager, racers)
    })
    after(async () => {
      await stalls.stop()
      await racers.kill()
      await manager.stop()
      await judge.close()
      await opened.close()
    })

    interface Selection {
      readonly racer: Racer
      readonly token: bigint
      readonly atMs: number
    }

    /** Everybody who was selected in a later term, in the order of these. */
    function selections(after = -1n): readonly Selection[] {
      return racers.all
        .flatMap((racer) =>
          racer.reports.flatMap(({ what, token, atMs }) =>
            what === 'selected' && token !== undefined ? [{ racer, token: BigInt(token), atMs }] : [],
          ),
        )
        .filter(({ token }) => token > after)
        .toSorted((a, b) => Number(a.token - b.token))
    }

    async function next(after: bigint): Promise<Selection> {
      await racers.until('new leader', () => selections(after).length > 0)
      return selections(after)[0] as Selection
    }

    /** A running leader, as far as has been heard. */
    async function leading(): Promise<Selection> {
      const leader = (): Selection | undefined => selections().at(-1)
      await racers.until('running leader', () => leader()?.racer.running === true && !hasLost(leader() as Selection))
      return leader() as Selection
    }

    function hasLost({ racer, atMs }: Selection): boolean {
      return (racer.latest('deselected')?.atMs ?? 0) > atMs
    }

    /** How long it may take while nothing stalls. */
    interface Handover {
      readonly fromMs: number
      readonly toMs: number
      readonly withinMs: number
    }

    function isLate({ fromMs, toMs, withinMs }: Handover): boolean {
      return toMs - fromMs > withinMs + stalls.lostMs(fromMs, toMs)
    }

    async function start(): Promise<Racer> {
      const racer = racers.start()
      await racers.until('start', () => racer.latest('started') !== undefined)
      return racer
    }

    /** undefined: it did not lead any more. */
    async function resign(): Promise<Handover | undefined> {
      const { racer, token } = await leading()
      racer.tell()
      const successor = await next(token)
      const resigning = racer.latest('resigning')
      if (resigning?.token !== String(token)) return undefined
      // It gives way for so long, and may then lead again.
      if (successor.racer === racer) expect(successor.atMs - resigning.atMs).to.be.at.least(TTL_MS)
      return { fromMs: resigning.atMs, toMs: successor.atMs, withinMs: TTL_MS / 2 }
    }

    /** undefined: it did not lead any more. */
    async function kill(): Promise<Handover | undefined> {
      const { racer, token } = await leading()
      const atMs = nowMs()
      racer.kill()
      const replaced = start()
      const successor = await next(token)
      await replaced
      return successor.atMs < atMs ? undefined : { fromMs: atMs, toMs: successor.atMs, withinMs: TTL_MS + 1000 }
    }

    /** Leader and another stand still until there is a new leader, and then find out. */
    async function pause(): Promise<Report> {
      const { racer, token, atMs } = await leading()
      const another = racers.running.find((one) => one !== racer) as Racer
      const paused = [racer, another]
      for (const one of paused) one.pause()
      await next(token)
      await pass(TTL_MS / 4)
      for (const one of paused) one.resume()
      await racers.until('end of its belief', () => (racer.latest('deselected')?.atMs ?? 0) > atMs)
      const knows = ({ reports }: Racer): boolean =>
        reports.findLast(({ what }) => what === 'leader')?.detail === selections().at(-1)?.racer.name
      await racers.until('knowledge of who leads', () => paused.every(knows))
      return racer.latest('deselected') as Report
    }

    it('LO-12, LO-17, LO-19, LO-20: at most one believes that it leads, and the next does in time, among processes that resign, stand still and are killed', async function () {
      this.timeout(enough(400_000)) // processes are slow to start on a busy machine
      await Promise.all(Array.from({ length: PROCESSES }, start))
      const handovers: Handover[] = []
      for (const trouble of TROUBLES) {
        await pass(Math.random() * (TTL_MS / 3)) // at any time between two renewals
        if (trouble === 'pause') {
          expect((await pause()).detail).to.be.oneOf(['expired', 'taken', 'unreachable'])
          continue
        }
        let measured: Handover | undefined
        while (measured === undefined) measured = await (trouble === 'kill' ? kill() : resign())
        handovers.push(measured)
      }
      await stalls.complete()
      await racers.kill()

      const windows = racers.windows()
      expect(conflicts(windows)).to.deep.equal([])
      expect(windows.length).to.be.at.least(TROUBLES.length)
      expect(handovers.filter(isLate)).to.deep.equal([])
      expect(handovers).to.have.length(TROUBLES.filter((trouble) => trouble !== 'pause').length)
    })
  })
}
