import { setTimeout as pause } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Nothing is left over from before, neither work nor garbage. */
export async function settled(): Promise<void> {
  await pause(20) // promises and immediates of the last answers
  collectGarbage()
  collectGarbage()
}

/** What is reachable on the heap, array buffers included, once what was going on has settled. */
export async function heapBytes(): Promise<number> {
  await settled()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}
