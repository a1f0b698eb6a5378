/** Tests that mostly wait, and so may wait at the same time. */
import { it } from 'mocha'

/**
 * Declares one test for each title. All bodies begin with the first test that runs, and each test reports the outcome of its
 * own body. The bodies must not disturb each other.
 */
export function together(tests: Readonly<Record<string, () => Promise<void>>>): void {
  let outcomes: ReadonlyMap<string, Promise<void>> | undefined
  for (const title of Object.keys(tests)) {
    it(title, async () => {
      outcomes ??= new Map(Object.entries(tests).map(([name, body]) => [name, begun(body)]))
      await outcomes.get(title)
    })
  }
}

/** A rejection is reported when its test comes to it, and is not unheard until then. */
function begun(body: () => Promise<void>): Promise<void> {
  const outcome = body()
  outcome.catch(() => {})
  return outcome
}
