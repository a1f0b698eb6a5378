/** Starts one worker, says which process it is, and waits to be killed. */
import { Workers } from 'lease-chaos'

const workers = new Workers('./idle.worker.ts', import.meta.url, { kind: 'redis', url: '', namespace: '', leaseMs: 0 })
const worker = workers.start()
await workers.until('the worker', () => worker.latest('began') !== undefined)
console.log(worker.latest('began')?.detail)
setInterval(() => {}, 1_000_000)
