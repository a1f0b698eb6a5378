/** Of this package. A test compares it. */
export const VERSION = '0.1.0'
