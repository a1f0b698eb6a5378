import { openTargets } from './targets.ts'

let close: (() => Promise<void>) | undefined

/** Starts the servers that the loaded test files asked for; a server that cannot be had fails the run. */
export async function mochaGlobalSetup(): Promise<void> {
  close = await openTargets()
}

/** Stops them. After Ctrl-C mocha does not call this; the servers then end with the process. */
export async function mochaGlobalTeardown(): Promise<void> {
  await close?.()
}
