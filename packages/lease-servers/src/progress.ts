/** What a start of a server is doing now: it can take minutes when the server has to be downloaded first. */
import { channel } from 'node:diagnostics_channel'

const steps = channel('lease-servers:step')

/** Reports what is done from now on, for a reader: `downloading postgresql-18`. */
export function report(step: string): void {
  steps.publish(step)
}

/** Calls the listener with every step of every start in this process, until it is disposed of. */
export function onStep(listener: (step: string) => void): Disposable {
  const hear = (step: unknown): void => listener(String(step))
  steps.subscribe(hear)
  return {
    [Symbol.dispose]: () => {
      steps.unsubscribe(hear)
    },
  }
}
