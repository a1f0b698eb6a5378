/** How much of a race is enough: the test command runs as much as finds a defect, the matrix five times as much. */
export function enough(count: number): number {
  return isMatrix() ? count * 5 : count
}

/** Whether this is a run of `test:matrix`, which may take its time. */
export function isMatrix(): boolean {
  return process.env['LEASE_SUITE'] === 'matrix'
}
