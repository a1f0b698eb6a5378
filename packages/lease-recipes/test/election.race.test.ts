import { setTimeout as pass } from 'node:timers/promises'
import { expect } from 'chai'
import {
  nowMs,
  openClient,
  raceStores,
  Stalls,
  trustConflicts,
  Workers,
  type OpenClient,
  type OpenStore,
  type Report,
  type Worker,
} from 'lease-chaos'
import { Manager } from 'lease-core'
import { enough } from 'lease-servers'
import { unique } from './stores.ts'

const TTL_MS = 1500
const PROCESSES = 3
const ROUND = ['resign', 'kill', 'pause', 'resign'] as const
const TROUBLES = Array.from({ length: enough(1) }, () => ROUND).flat()

for (const store of raceStores('sorts', ['etcd'])) {
  describe(`Election, a race of processes, on ${store.name}`, () => {
    let opened: OpenStore
    let judge: OpenClient
    let manager: Manager
    let workers: Workers
    let stalls: Stalls

    before(async () => {
      opened = await store.open(unique('race'))
      judge = openClient(opened.address)
      manager = new Manager({ client: judge.client })
      workers = new Workers('./election.worker.ts', import.meta.url, { ...opened.address, leaseMs: TTL_MS })
      stalls = new Stalls(manager, workers)
    })
    after(async () => {
      await stalls.stop()
      await workers.kill()
      await manager.stop()
      await judge.close()
      await opened.close()
    })

    interface Selection {
      readonly worker: Worker
      readonly token: bigint
      readonly atMs: number
    }

    /** Everybody who was selected in a later term, in the order of these. */
    function selections(after = -1n): readonly Selection[] {
      return workers.all
        .flatMap((worker) =>
          worker.reports.flatMap(({ what, token, atMs }) =>
            what === 'selected' && token !== undefined ? [{ worker, token: BigInt(token), atMs }] : [],
          ),
        )
        .filter(({ token }) => token > after)
        .toSorted((a, b) => Number(a.token - b.token))
    }

    async function next(after: bigint): Promise<Selection> {
      await workers.until('new leader', () => selections(after).length > 0)
      return selections(after)[0] as Selection
    }

    /** A running leader, as far as has been heard. */
    async function leading(): Promise<Selection> {
      const leader = (): Selection | undefined => selections().at(-1)
      await workers.until('running leader', () => leader()?.worker.running === true && !hasLost(leader() as Selection))
      return leader() as Selection
    }

    function hasLost({ worker, atMs }: Selection): boolean {
      return (worker.latest('deselected')?.atMs ?? 0) > atMs
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

    async function start(): Promise<Worker> {
      const worker = workers.start()
      await workers.until('start', () => worker.latest('started') !== undefined)
      return worker
    }

    /** undefined: it did not lead any more. */
    async function resign(): Promise<Handover | undefined> {
      const { worker, token } = await leading()
      worker.tell()
      const successor = await next(token)
      const resigning = worker.latest('resigning')
      if (resigning?.token !== String(token)) return undefined
      // It gives way for so long, and may then lead again.
      if (successor.worker === worker) expect(successor.atMs - resigning.atMs).to.be.at.least(TTL_MS)
      return { fromMs: resigning.atMs, toMs: successor.atMs, withinMs: TTL_MS / 2 }
    }

    /** undefined: it did not lead any more. */
    async function kill(): Promise<Handover | undefined> {
      const { worker, token } = await leading()
      const atMs = nowMs()
      worker.kill()
      const replaced = start()
      const successor = await next(token)
      await replaced
      return successor.atMs < atMs ? undefined : { fromMs: atMs, toMs: successor.atMs, withinMs: TTL_MS + 1000 }
    }

    /** Leader and another stand still until there is a new leader, and then find out. */
    async function pause(): Promise<Report> {
      const { worker, token, atMs } = await leading()
      const another = workers.running.find((one) => one !== worker) as Worker
      const paused = [worker, another]
      for (const one of paused) one.pause()
      await next(token)
      await pass(TTL_MS / 4)
      for (const one of paused) one.resume()
      await workers.until('end of its belief', () => (worker.latest('deselected')?.atMs ?? 0) > atMs)
      const knows = ({ reports }: Worker): boolean =>
        reports.findLast(({ what }) => what === 'leader')?.detail === selections().at(-1)?.worker.name
      await workers.until('knowledge of who leads', () => paused.every(knows))
      return worker.latest('deselected') as Report
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
      await workers.kill()

      expect(trustConflicts(workers.windows())).to.deep.equal([])
      const relied = workers.all.flatMap(({ reports }) => reports.filter(({ what }) => what === 'relied'))
      expect(new Set(relied.map(({ token }) => token)).size).to.be.at.least(TROUBLES.length)
      expect(handovers.filter(isLate)).to.deep.equal([])
      expect(handovers).to.have.length(TROUBLES.filter((trouble) => trouble !== 'pause').length)
    })
  })
}
