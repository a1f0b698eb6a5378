import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { expect } from 'chai'
import { loadStore, openClient, raceStores, type OpenClient, type OpenStore } from 'lease-chaos'
import { Manager } from 'lease-core'
import { nodeOptions, programOf } from 'lease-servers'
import { handOver } from './hand-over.ts'
import type { Handed } from './hand-over.worker.ts'
import type { Baton } from './lambda.ts'
import { failure } from './rivals.ts'

const PROGRAM = './hand-over.worker.ts'

async function inChild(handed: Handed): Promise<Baton | string> {
  const args = [...programOf(PROGRAM, import.meta.url), JSON.stringify(handed)]
  const { stdout } = await promisify(execFile)(process.execPath, args)
  return JSON.parse(stdout) as Baton | string
}

async function inThread(handed: Handed): Promise<Baton | string> {
  const file = pathToFileURL(programOf(PROGRAM, import.meta.url).at(-1) ?? '').href
  const program = `import(${JSON.stringify(file)})`
  // Node 20 gives a thread no loader for sources.
  const isSource = nodeOptions(import.meta.url).length > 0
  const code = isSource ? `import('tsx/esm/api').then((tsx) => (tsx.register(), ${program}))` : program
  const thread = new Worker(code, { eval: true, workerData: handed })
  const ended = once(thread, 'exit')
  const [told] = (await once(thread, 'message')) as [Baton | string]
  await ended
  return told
}

for (const store of raceStores('sorts', ['redis', 'dynamodb'])) {
  describe(`example: a term is handed over, on ${store.name}`, () => {
    let opened: OpenStore
    let manager: Manager
    let own: OpenClient
    before(async () => {
      await loadStore(store.kind)
      opened = await store.open(`hand-over-${process.pid}`)
      own = openClient(opened.address)
      manager = new Manager({ client: own.client })
    })
    after(async () => {
      await manager?.stop()
      await own?.close()
      await opened?.close()
    })

    const rival = (): Promise<unknown> => failure(manager.claim('order-7', 'rival', { minutes: 1 }))

    it('to a child process, and from there to a worker thread: one term, and nobody else gets it', async () => {
      const { address } = opened
      const hold = await manager.hold('order-7', 'run-1', { duration: { minutes: 5 } })
      const baton = await handOver(hold)
      expect([hold.held, hold.signal.aborted]).to.deep.equal([false, true])
      expect(await inChild({ address, baton, finally: 'hand back' })).to.deep.equal(baton)
      expect(await rival()).to.have.property('code', 'LEASE_CLAIM_DENIED')
      expect((await manager.find('order-7'))?.fencingToken).to.equal(hold.fencingToken)
      expect(await inThread({ address, baton, finally: 'release' })).to.deep.equal(baton)
      expect(await rival()).to.equal(undefined)
    })

    it('is not continued when it is over: the lease is free', async () => {
      const hold = await manager.hold('order-8', 'run-1', { duration: { minutes: 5 } })
      const baton = await handOver(hold)
      await manager.revoke('order-8')
      const told = await inThread({ address: opened.address, baton, finally: 'hand back' })
      expect(told).to.equal('Error: the term of order-8 is over: begin again')
      expect(await manager.find('order-8')).to.equal(undefined)
    })
  })
}
