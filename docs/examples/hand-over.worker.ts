/** Continues a term that was handed over to this child process or worker thread, and hands it back or releases it. */
import { isMainThread, parentPort, workerData } from 'node:worker_threads'
import { loadStore, openClient, type StoreAddress } from 'lease-chaos/worker'
import { Manager } from 'lease-core'
import { handOver, takeOver } from './hand-over.ts'
import type { Baton } from './lambda.ts'

export interface Handed {
  readonly address: StoreAddress
  readonly baton: Baton
  readonly finally: 'hand back' | 'release'
}

const { address, baton, finally: end } = (isMainThread ? JSON.parse(process.argv[2] ?? '') : workerData) as Handed
await loadStore(address.kind)
const opened = openClient(address)
const manager = new Manager({ client: opened.client })
try {
  const hold = await takeOver(manager, baton)
  if (end === 'release') {
    await hold.release()
    tell(baton)
  } else tell(await handOver(hold))
} catch (error) {
  tell(String(error))
} finally {
  await manager.stop()
  await opened.close()
}

function tell(what: Baton | string): void {
  if (isMainThread) console.log(JSON.stringify(what))
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has none
  else parentPort?.postMessage(what)
}
